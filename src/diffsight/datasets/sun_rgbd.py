"""SUN RGB-D: depth of rooms from four sensors, for tests of models that were trained elsewhere."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.pairs import Pair, read_list, read_pair, require_files
from diffsight.errors import InputError

SENSORS = ("kv1", "kv2", "realsense", "xtion")
SPLIT_FILE = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
OFFICIAL = "https://rgbd.cs.princeton.edu"


class SUNRGBD(AbstractDataset):
    """Images of rooms with z-depth in metres (16-bit PNG).

    ``root`` holds ``SUNRGBD/{kv1,kv2,realsense,xtion}/...``, as the archive does, or is that
    folder. Every folder of a frame has ``image/*.jpg`` and ``depth_bfx/*.png``.

    Differs from DDP's code: a count is decoded as the data set's own toolbox does (rotated by three
    bits, millimetres). ``encoding="m/8000"`` is the authors', which is the same up to 8.19 m.

    Args:
        root: folder of the data set.
        split: ``test`` (5,050 images) or ``train`` (5,285), for lists of the toolbox.
        list_file: ``allsplit.mat`` of the toolbox (default: that of the archive), or a text file
            with a line ``IMAGE DEPTH`` for every sample; paths begin at a sensor or before it.
        encoding: of the depth.

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
            rows = [_files_of(base / _inner(one, path)) for one in _frames(path, split)]
        else:
            pairs = read_list(path, columns=2)
            rows = [(base / _inner(a, path), base / _inner(b, path)) for a, b in pairs]
        self.name = f"sun-rgbd-{split}"
        self.pairs = require_files(
            [
                Pair(image.relative_to(base).with_suffix("").as_posix(), image, depth, encoding)
                for image, depth in rows
            ],
            f"{base} is incomplete, or the list is of another layout: get the data from {OFFICIAL}",
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


def _inner(path: str, where: Path) -> Path:
    """Return the part of a path from the sensor on.

    Raises:
        InputError: if it names no sensor.
    """
    parts = Path(path).parts
    for number, part in enumerate(parts):
        if part in SENSORS:
            return Path(*parts[number:])
    raise InputError(f"{where}: {path} names none of the sensors {', '.join(SENSORS)}: check it")


def _frames(path: Path, split: Literal["train", "test"]) -> list[str]:
    """Return the folders of the frames in the toolbox's list.

    Raises:
        InputError: if the file cannot be read or is another.
    """
    from scipy.io import loadmat  # a third of a second

    try:
        found: Any = loadmat(str(path), squeeze_me=True)[f"all{split}"]
    except Exception as error:  # of a damaged file, anything
        raise InputError(
            f"{path}: no list of SUN RGB-D's toolbox ({type(error).__name__}): give allsplit.mat, "
            "or a text file of lines 'IMAGE DEPTH'"
        ) from None
    return [str(one) for one in np.atleast_1d(found)]


def _files_of(folder: Path) -> tuple[Path, Path]:
    """Return image and depth of a frame; names that are missing where there are none."""
    patterns = (folder / "image" / "*.jpg", folder / "depth_bfx" / "*.png")
    image, depth = (next(iter(sorted(p.parent.glob(p.name))), p) for p in patterns)
    return image, depth
