"""Read images from, and write results to, folders and object stores such as S3 (by fsspec)."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from diffsight import atomic
from diffsight.datasets.files import read_image as read_local_image
from diffsight.errors import InputError, MissingExtraError
from diffsight.formats import text

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOCAL = ("file", "local")  # their URLs have no name of a bucket or a machine


class Url(PurePosixPath):
    """The URL of a file or a folder in an object store, such as ``s3://bucket/photos``."""

    def __str__(self) -> str:
        """Return the URL, with the two slashes that paths join to one."""
        scheme, colon, rest = super().__str__().partition(":/")
        slash = "/" if scheme in _LOCAL else ""
        return f"{scheme}://{slash}{rest}" if colon else scheme


AnyPath = Path | Url


def is_url(location: str) -> bool:
    """Return whether a text is a URL and not a path."""
    return _URL.match(location) is not None


def parse_location(location: str) -> AnyPath:
    """Return the path or the URL of a file or a folder.

    Raises:
        InputError: if there is no such store.
        MissingExtraError: if the package of the store is not installed.
    """
    if not is_url(location):
        return Path(location)
    url = Url(location)
    _open_store(url)
    return url


def list_files(url: Url) -> list[Url] | None:
    """Return the files of a folder or a pattern in an object store, sorted; None for one file.

    Hidden files and folders are skipped.

    Raises:
        InputError: if the store cannot be read.
    """
    store, path = _open_store(url)
    with _report(url, "read"):
        if any(sign in path for sign in "*?["):
            names = [name for name in store.glob(path) if not store.isdir(name)]
        elif store.isdir(path):
            names = store.find(path)
        else:
            return None
    files = (Url(store.unstrip_protocol(name)) for name in sorted(names))
    start = len(_fixed_part(url).parts)
    return [one for one in files if not any(part[0] == "." for part in one.parts[start:])]


def _fixed_part(url: Url) -> Url:
    """Return the folders of a pattern before the first part with a sign."""
    while any(sign in str(url) for sign in "*?["):
        url = url.parent
    return url


def read_image(url: Url) -> UInt8[Tensor, "3 h w"]:
    """Return an image of an object store, see ``datasets.files.read_image``.

    Raises:
        InputError: if it cannot be read or used.
    """
    data = read_bytes(url)
    name = str(Path(url))  # paths join the two slashes of a URL to one
    try:
        return read_local_image(Path(url), data)
    except InputError as error:
        raise type(error)(str(error).replace(name, str(url))) from None


def read_bytes(path: AnyPath) -> bytes:
    """Return the contents of a file.

    Raises:
        OSError: if a local file cannot be read.
        InputError: if a file of an object store cannot be read.
    """
    if isinstance(path, Path):
        return path.read_bytes()
    store, name = _open_store(path)
    with _report(path, "read"):
        return store.cat_file(name)


def read_object(path: AnyPath) -> dict[str, Any]:
    """Return the contents of a JSON file that holds an object.

    Raises:
        OSError: if a local file cannot be read.
        ValueError: if a file of an object store cannot be read, or a file holds no object.
    """
    if isinstance(path, Path):
        return text.read_object(path)
    return text.parse_object(text.decode_text(read_bytes(path)))


def exists(path: AnyPath) -> bool:
    """Return whether a file exists.

    Raises:
        InputError: if the object store cannot be read.
    """
    if isinstance(path, Path):
        return os.path.exists(path)  # False for a name that is too long
    store, name = _open_store(path)
    with _report(path, "read"):
        return store.exists(name)


def modified_s(path: AnyPath) -> float:
    """Return the time of the last change of a file in seconds.

    For a local file this includes the time at which it was moved to its place.

    Raises:
        OSError: if the file cannot be read.
        InputError: if the object store cannot be read, or does not report the time.
    """
    if isinstance(path, Path):
        status = path.stat()
        return max(status.st_mtime_ns, status.st_ctime_ns) / 1e9
    store, name = _open_store(path)
    with _report(path, "read"):
        store.invalidate_cache()
        return store.modified(name).timestamp()


def make_folder(path: AnyPath) -> None:
    """Make a folder and those above it; object stores have no folders.

    Raises:
        InputError: if a folder cannot be made, or the object store cannot be written to.
    """
    if isinstance(path, Path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be created ({error.strerror}): choose another --out"
            ) from error
        return
    store, name = _open_store(path)
    if path.parts[0].rstrip(":") in _LOCAL:
        with _report(path, "written"):
            store.makedirs(name, exist_ok=True)


def remove(path: AnyPath) -> None:
    """Delete a file if it exists.

    Raises:
        InputError: if it cannot be deleted.
    """
    if isinstance(path, Path):
        with atomic.report_unwritable(path):
            path.unlink(missing_ok=True)
        return
    store, name = _open_store(path)
    with _report(path, "written"), contextlib.suppress(FileNotFoundError):
        store.rm_file(name)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Yield the path of an empty temporary file, which replaces ``path`` when the block succeeds.

    Raises:
        InputError: if the file cannot be written.
    """
    if isinstance(path, Path):
        with atomic.replacing(path) as partial:
            yield partial
        return
    store, name = _open_store(path)
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder, "file")
        partial.touch()
        yield partial
        with _report(path, "written"):
            store.put_file(str(partial), name)


def is_disk_full(error: InputError) -> bool:
    """Return whether a file could not be written because its disk is full."""
    cause = error.__cause__
    # NumPy reports a full disk without a number
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, None)


def is_name_too_long(error: InputError) -> bool:
    """Return whether a file could not be written because its name is too long."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG


def is_same(one: AnyPath, other: AnyPath) -> bool:
    """Return whether two paths are the same folder."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return one == other


def _open_store(url: Url) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        InputError: if there is no such store.
        MissingExtraError: if its package is not installed.
    """
    from fsspec.core import url_to_fs  # imported here, because paths do not need it
    from fsspec.registry import known_implementations

    try:
        return url_to_fs(str(url))
    except ImportError as error:
        package = known_implementations[url.parts[0].rstrip(":")]["class"].partition(".")[0]
        # a store of fsspec itself may need another library
        repair = f"{package} is not installed: pip install {package}"
        reason = f"{error}" if package == "fsspec" else repair
        raise MissingExtraError(f"{url}: {reason}") from None
    except ValueError as error:
        examples = "s3://, gs://, az:// or file://"
        raise InputError(f"{url}: {error}: give a path, or a URL with {examples}") from None


@contextlib.contextmanager
def _report(url: Url, action: str) -> Iterator[None]:
    """Turn the errors of an object store into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{url}: does not exist: check the URL") from error
    except Exception as error:  # every store has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{url}: cannot be {action} ({reason}): check the URL and your access rights"
        ) from error
