"""SUN RGB-D: depth of rooms from four sensors, to test models that were trained on other data."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.pairs import Pair, read_list, read_pair, require_files
from diffsight.errors import InputError

SENSORS = ("kv1", "kv2", "realsense", "xtion")
SPLIT_FILE = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
OFFICIAL_URL = "https://rgbd.cs.princeton.edu"


class SUNRGBD(AbstractDataset):
    """Images of rooms with z-depth in metres (16-bit PNG).

    ``root`` contains ``SUNRGBD/{kv1,kv2,realsense,xtion}/...`` as in the archive, or is the folder
    ``SUNRGBD``. The folder of every frame has ``image/*.jpg`` and ``depth_bfx/*.png``.

    Differs from DDP's code: the 16-bit numbers are rotated right by three bits to get millimetres,
    as in the toolbox of the data set. ``encoding="m/8000"`` decodes them as DDP's authors do, which
    is the same up to 8.19 m. Differs from the toolbox: depths above 8 m are kept, where the toolbox
    then sets them to 8 m.

    Args:
        root: folder of the data set.
        split: ``test`` (5,050 images) or ``train`` (5,285). All lines of a text file are read
            whatever the split.
        list_file: ``allsplit.mat`` of the toolbox (default: that of the archive), or a text file
            with a line ``IMAGE DEPTH`` for every sample. Folders in a path before the name of the
            sensor are ignored.
        encoding: encoding of the depth files (see ``read_depth``).

    Raises:
        InputError: if the list cannot be read or files are missing.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        split: Literal["train", "test"] = "test",
        list_file: str | Path | None = None,
        encoding: Literal["sunrgbd", "m/8000"] = "sunrgbd",
    ) -> None:
        root = Path(root)
        base = root if any((root / name).is_dir() for name in SENSORS) else root / "SUNRGBD"
        path = Path(list_file) if list_file else base.parent / SPLIT_FILE
        if path.suffix == ".mat":
            rows = [
                _find_files(base / _strip_prefix(frame, path))
                for frame in _read_frames(path, split)
            ]
        else:
            pairs = read_list(path, columns=2)
            rows = [
                (base / _strip_prefix(image, path), base / _strip_prefix(depth, path))
                for image, depth in pairs
            ]
        self.name = f"sun-rgbd-{split}"
        self.pairs = require_files(
            [
                Pair(image.relative_to(base).with_suffix("").as_posix(), image, depth, encoding)
                for image, depth in rows
            ],
            f"{base} is incomplete, or the list has another layout: get it from {OFFICIAL_URL}",
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m``.

        Raises:
            InputError: if a file cannot be used.
        """
        return read_pair(self.pairs[index])


def _strip_prefix(path: str, list_file: Path) -> Path:
    """Return the part of a path that begins with the name of the sensor.

    Raises:
        InputError: if the path names no sensor.
    """
    parts = Path(path).parts
    for number, part in enumerate(parts):
        if part in SENSORS:
            return Path(*parts[number:])
    raise InputError(
        f"{list_file}: {path} names none of the sensors {', '.join(SENSORS)}: correct the path"
    )


def _read_frames(path: Path, split: Literal["train", "test"]) -> list[str]:
    """Return the folders of the frames in the toolbox's list.

    Raises:
        InputError: if the file cannot be read or is not such a list.
    """
    from scipy.io import loadmat  # imported here: it takes 0.3 s

    try:
        folders: Any = loadmat(str(path), squeeze_me=True)[f"all{split}"]
    except Exception as error:  # a damaged file raises errors of any type
        raise InputError(
            f"{path}: no list of SUN RGB-D's toolbox ({type(error).__name__}): give allsplit.mat, "
            "or a text file of lines 'IMAGE DEPTH'"
        ) from None
    return [str(folder) for folder in np.atleast_1d(folders)]


def _find_files(folder: Path) -> tuple[Path, Path]:
    """Return the image and the depth file in the folder of a frame.

    A missing file is replaced by its pattern (``*.jpg`` or ``*.png``).
    """
    patterns = (folder / "image" / "*.jpg", folder / "depth_bfx" / "*.png")
    image, depth = (next(iter(sorted(p.parent.glob(p.name))), p) for p in patterns)
    return image, depth
