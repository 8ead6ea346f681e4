"""Models that come with the package; every file is checked against its checksum before it is used.

A model is a folder in diffusers' layout with a ``SHA256SUMS`` that ``sha256sum --check`` reads.
"""

import difflib
import functools
import hashlib
from pathlib import Path

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.formats.text import reading

NAMES = ("tiny",)
FOLDER = Path(__file__).parent
CHECKSUMS = "SHA256SUMS"
_REPAIR = "reinstall the package (pip install --force-reinstall --no-deps diffsight)"


def find(name: str) -> Path:
    """The folder of an embedded model, all of whose files are as they were shipped.

    The files are read once per process.

    Args:
        name: ``tiny``.

    Raises:
        InputError: for an unknown name (tells the nearest), or a file that is missing, cut off or
            changed.
    """
    if name not in NAMES:
        (near,) = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)
        raise InputError(f"no model {name!r} comes with the package: did you mean {near!r}?")
    return _checked(FOLDER / name)


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` for all files of ``folder`` that are not hidden; replaces an older one.

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
def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: this version of the package brings no embedded model: make one with "
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
            f"{path}: cut off or changed ({path.stat().st_size:,} bytes whose SHA-256 is not "
            f"that of {CHECKSUMS}): {_REPAIR}"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
