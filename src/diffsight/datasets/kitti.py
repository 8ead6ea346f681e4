"""KITTI depth: raw images with annotated depth (accumulated LiDAR) by a list of the Eigen split."""

from pathlib import Path
from typing import Literal

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.pairs import Pair, file_finder, read_list, read_pair, require_files
from diffsight.datasets.transforms import crop
from diffsight.errors import InputError

KB_CROP_HW = (352, 1216)
"""Rows and columns that the crop of the KITTI depth benchmark keeps: the bottom, and the centre."""

_IMAGE_FOLDERS = ("", "raw_data")
_DEPTH_FOLDERS = (
    "",
    "data_depth_annotated",
    "data_depth_annotated/train",
    "data_depth_annotated/val",
)


class KITTIDepth(AbstractDataset):
    """Street images with sparse z-depth in metres (16-bit PNG, 256 counts per metre, 0 unknown).

    ``root`` holds ``raw_data/DATE/DRIVE/image_02/data/*.png`` and
    ``data_depth_annotated/{train,val}/DRIVE/proj_depth/groundtruth/image_02/*.png``. A path of the
    list may start at ``root`` or at any folder before DATE or DRIVE.

    Args:
        root: folder of the data set.
        list_file: one line ``IMAGE DEPTH FOCAL`` per sample; the focal length may be absent and is
            not used. Lines whose depth is ``None`` are left out (45 of the 697 of the Eigen test).
        split: ``train`` or ``test``; for the name only, the list says which samples they are.
        kb_crop: keep the bottom 352 rows and the centre 1216 columns, in training as in testing.

    Attributes:
        without_depth: how many lines of the list were left out.

    Raises:
        InputError: if the list cannot be read or files are missing.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        list_file: str | Path,
        split: Literal["train", "test"] = "train",
        kb_crop: bool = True,
    ) -> None:
        root = Path(root)
        rows = read_list(Path(list_file), columns=2)
        with_depth = [(image, depth) for image, depth in rows if depth != "None"]
        self.without_depth = len(rows) - len(with_depth)
        self.name = f"kitti-{split}"
        self.kb_crop = kb_crop
        self.pairs = require_files(
            _locate(root, with_depth), f"{root} is incomplete, or the list is of another layout"
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m``.

        Raises:
            InputError: if a file cannot be used, or is smaller than the crop.
        """
        sample = read_pair(self.pairs[index])
        return _kb_crop(sample) if self.kb_crop else sample


def _locate(root: Path, rows: list[tuple[str, str]]) -> list[Pair]:
    """Return the pairs, each file in the first folder that has it."""
    find = file_finder()

    def locate(inner: str, folders: tuple[str, ...]) -> Path:
        candidates = [root / folder / inner for folder in folders]
        return next((path for path in candidates if find(path)), candidates[0])

    return [
        Pair(
            Path(image).with_suffix("").as_posix(),
            locate(image, _IMAGE_FOLDERS),
            locate(depth, _DEPTH_FOLDERS),
            "m/256",
        )
        for image, depth in rows
    ]


def _kb_crop(sample: Sample) -> Sample:
    rows, columns = KB_CROP_HW
    height, width = sample.image.shape[-2:]
    if height < rows or width < columns:
        raise InputError(
            f"sample {sample.id}: {height} x {width} (height x width) is smaller than the crop of "
            f"{rows} x {columns}; set kb_crop to false"
        )
    return crop(sample, height - rows, (width - columns) // 2, rows, columns)
