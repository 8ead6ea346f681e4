"""Find the files of a model: in the package, a folder or the hub's cache, or on the hub."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import huggingface_hub

from diffsight import assets
from diffsight.errors import InputError
from diffsight.weights.files import weight_files

DIFFUSION = ("unet", "vae")
_FORM = "owner/name"  # of a hub id
FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # endings of files, which no hub id has


def locate(
    source: str | Path, parts: Sequence[str] = DIFFUSION, *, revision: str | None = None
) -> Path:
    """Return the local folder or file of a model; one on the hub is downloaded if necessary.

    Args:
        source: ``tiny``, a folder or file, a folder of the hub's cache (``models--owner--name``),
            or a hub id. Write ``./tiny`` for a folder with the name of the embedded model.
        parts: folders to download from a hub id in diffusers' layout, each with one copy of its
            weights. If the repository has none of them, the model at its top is downloaded.
        revision: branch, tag or commit of a hub id.

    Raises:
        InputError: if the source is neither a path nor a hub id that can be downloaded or read from
            the cache, or if the embedded model is damaged.
    """
    if source in assets.NAMES:
        return assets.find(str(source))
    path = Path(source)
    if path.exists():
        return resolve_folder(path)
    if path.suffix in FILES or str(source).count("/") != 1:
        raise InputError(f"{source}: no such file or folder, and not a hub id of the form {_FORM}")
    with hub_errors(source):
        wanted: list[str] = []
        # offline, the list of files is not available, and an empty list matches the cached snapshot
        with contextlib.suppress(Exception):
            wanted = _needed(
                huggingface_hub.HfApi().list_repo_files(str(source), revision=revision), parts
            )
        return Path(
            huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=wanted)
        )


def resolve_folder(path: Path) -> Path:
    """Return the current snapshot in a folder of the hub's cache; other paths are not changed.

    Args:
        path: folder of the hub's cache (``models--owner--name``), or any other path.

    Raises:
        InputError: if the folder has no snapshot, or several and none is that of ``refs/main``.
    """
    if not (path.name.startswith("models--") and path.is_dir()):
        return path
    main = path / "refs" / "main"
    commits = sorted(folder.name for folder in (path / "snapshots").glob("*"))
    if main.is_file() and main.read_text().strip() in commits:
        commits = [main.read_text().strip()]
    if len(commits) == 1:
        return path / "snapshots" / commits[0]
    problem = f"{len(commits)} snapshots, none of them of refs/main" if commits else "no snapshot"
    raise InputError(
        f"{path}: {problem} in this folder of the hub's cache: give one of its folders "
        "snapshots/COMMIT, or download the model again"
    )


def part_folder(folder: Path, part: str) -> Path:
    """Return the folder of a part of a model, or the model's folder if it has no such part.

    Args:
        folder: folder of the model.
        part: name of the part, such as ``text_encoder``.
    """
    return folder / part if (folder / part).is_dir() else folder


def _needed(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return the files of a repository that are needed to load some parts of a model.

    Args:
        names: paths of all files in the repository.
        parts: as for ``locate``.
    """
    paths = [PurePosixPath(name) for name in names]
    nested = {path.parts[0] for path in paths if len(path.parts) == 2} & {*parts}
    needed: list[str] = []
    for folder in nested or {"."}:
        inside = [path for path in paths if str(path.parent) == folder]
        weights = weight_files(path.name for path in inside)
        needed += [
            str(path) for path in inside if path.name in weights or path.suffix in (".json", ".txt")
        ]
    return needed


@contextlib.contextmanager
def hub_errors(source: str | Path) -> Iterator[None]:
    """Return a context that turns the errors of huggingface_hub into one line for the user.

    Args:
        source: hub id that is downloaded, for the message.

    Raises:
        InputError: for every error of huggingface_hub, and every OSError.
    """
    try:
        yield
    except Exception as error:
        raise _explain(source, error) from None


def _explain(source: str | Path, error: Exception) -> Exception:
    """Return an ``InputError`` for an error of huggingface_hub, or else the error itself."""
    from huggingface_hub import errors  # takes a tenth of a second

    if isinstance(error, errors.HFValidationError):
        reason = f"no such file or folder, and not a hub id of the form {_FORM}"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = "the hub has no such revision of this model: check the revision"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = "the hub has no such model: check the spelling, or log in if it is private"
    elif isinstance(error, errors.LocalEntryNotFoundError | errors.HfHubHTTPError | OSError):
        reason = (
            f"not on this machine and the hub cannot be reached ({type(error).__name__}): give a "
            "local folder or file, or go online and unset HF_HUB_OFFLINE"
        )
    else:
        return error
    return InputError(f"{source}: {reason}")
