"""KITTI depth: images and accumulated LiDAR depth, selected by a list such as the Eigen split."""

from pathlib import Path
from typing import Literal

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.pairs import Pair, make_file_finder, read_list, read_pair, require_files
from diffsight.datasets.transforms import crop
from diffsight.errors import InputError

KB_CROP_HW = (352, 1216)
"""Height and width of the crop of the KITTI depth benchmark: bottom rows and centre columns."""

_IMAGE_FOLDERS = ("", "raw_data")
_DEPTH_FOLDERS = (
    "",
    "data_depth_annotated",
    "data_depth_annotated/train",
    "data_depth_annotated/val",
)


class KITTIDepth(AbstractDataset):
    """Street images with sparse depth along the optical axis in metres.

    Depth maps are 16-bit PNG with 256 counts per metre, where 0 means no measurement. ``root``
    contains ``raw_data/DATE/DRIVE/image_02/data/*.png`` and
    ``data_depth_annotated/{train,val}/DRIVE/proj_depth/groundtruth/image_02/*.png``. A path in the
    list may start at ``root`` or at any folder before DATE or DRIVE.

    Args:
        root: folder of the data set.
        list_file: list with one line ``IMAGE DEPTH FOCAL`` per sample. The focal length is optional
            and not used. Lines with the depth ``None`` are skipped (45 of the 697 lines of the
            Eigen test split).
        split: ``train`` or ``test``. It only affects the name, since the list selects the samples.
        kb_crop: crop every sample to the bottom 352 rows and the centre 1216 columns, for training
            and for testing.

    Attributes:
        without_depth: number of skipped lines of the list.

    Raises:
        InputError: if the list cannot be read, or files are missing.
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
            _locate_pairs(root, with_depth),
            f"{root} is incomplete, or the list has another layout",
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m``.

        Raises:
            InputError: if a file cannot be read, or the image is smaller than the crop.
        """
        sample = read_pair(self.pairs[index])
        return _crop_for_benchmark(sample) if self.kb_crop else sample


def _locate_pairs(root: Path, rows: list[tuple[str, str]]) -> list[Pair]:
    """Return the image and depth files of the rows of a list.

    A path of the list is searched for in several folders. If it is in none of them, the returned
    path is that in the first one.
    """
    find = make_file_finder()

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


def _crop_for_benchmark(sample: Sample) -> Sample:
    """Return the crop of the KITTI depth benchmark.

    Raises:
        InputError: if the image is smaller than the crop.
    """
    rows, columns = KB_CROP_HW
    height, width = sample.image.shape[-2:]
    if height < rows or width < columns:
        raise InputError(
            f"sample {sample.id}: {height} x {width} (height x width) is smaller than the crop of "
            f"{rows} x {columns}; set kb_crop to false"
        )
    return crop(sample, height - rows, (width - columns) // 2, rows, columns)
