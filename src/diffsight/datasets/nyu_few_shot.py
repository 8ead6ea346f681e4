"""NYU Depth v2 as the few-shot benchmark uses it: depth, and normals that others computed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.nyu import FOLDERS, NYUDepth, Split
from diffsight.datasets.pairs import Pair, file_finder, read_pair
from diffsight.errors import InputError

MIN_DEPTH_M, MAX_DEPTH_M = 1e-3, 10.0
SIZE_HW = (480, 640)
# Eigen's crop: the border of the Kinect's maps is empty or badly aligned
CROP_ROWS, CROP_COLUMNS = slice(45, 471), slice(41, 601)


class NYUFewShotDepth(AbstractDataset):
    """Z-depth ``depth_m`` where 1e-3 m < depth < 10 m; 480 x 640 pixels, ordered by name.

    Args:
        root: folder of the data set, as ``NYUDepth`` reads it.
        split: ``train``, ``official-train`` or ``test``, as ``NYUDepth`` reads it.
        list_file: list of the samples as ``NYUDepth`` reads it; None takes all.
        crop: leave out what is outside of Eigen's crop (rows 45 to 470, columns 41 to 600).

    Raises:
        InputError: if files of the data set are missing.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        split: Split = "train",
        list_file: str | Path | None = None,
        crop: bool = False,
    ) -> None:
        self.name = f"nyu-depth-{split}"
        self.pairs = _pairs(root, split, list_file)
        self.split = split
        self.crop = crop

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the image at ``index`` with its depth.

        Raises:
            InputError: if a file cannot be used.
        """
        pair = self.pairs[index]
        sample = read_pair(pair)
        _require_size(pair, sample.image)
        depth_m = sample.labels["depth_m"]
        valid = sample.valid["depth_m"] & (depth_m[0] > MIN_DEPTH_M) & (depth_m[0] < MAX_DEPTH_M)
        if not valid.any():
            raise InputError(
                f"{pair.depth}: no depth between {MIN_DEPTH_M:g} and {MAX_DEPTH_M:g} m; NYU's maps "
                "are 16-bit PNG of millimetres, leave this file out if it is another"
            )
        if self.crop:
            valid = inside_crop(valid)
        id = f"{self.split}/{pair.id}"
        return Sample(id, sample.image, {"depth_m": depth_m}, {"depth_m": valid}, pair.prompt)


class NYUNormals(AbstractDataset):
    """Normals of NYU's images: unit vectors, x right, y down, z forward; 480 x 640 pixels.

    NYU comes without normals, and those that papers use differ from one another: name the folder
    after their origin. Images without a file of normals are left out; pixels without a direction
    have no label.

    Args:
        root: folder of the data set, as ``NYUDepth`` reads it.
        normals: folder with the sub-folders of ``root``; a file is called as its image, with the
            suffix ``.png`` (v / 127.5 - 1) or ``.npy`` (height, width, 3).
        split: ``train``, ``official-train`` or ``test``, as ``NYUDepth`` reads it.
        list_file: list of the samples as ``NYUDepth`` reads it; None takes all.

    Raises:
        InputError: if files of the data set are missing, or there are no normals.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        normals: str | Path,
        split: Split = "train",
        list_file: str | Path | None = None,
    ) -> None:
        self.name = f"nyu-normals-{split}"
        self.split = split
        self.files = _find_normals(Path(normals), _pairs(root, split, list_file), split)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Return the image at ``index`` with its normals.

        Raises:
            InputError: if a file cannot be used.
        """
        pair, path = self.files[index]
        image = read_image(pair.image)
        _require_size(pair, image)
        label = read_label(path, LabelFormat("normals"))
        if label.valid.shape != SIZE_HW:
            height, width = label.valid.shape
            raise InputError(
                f"{path}: normals of {width} x {height} pixels; those of NYU have 640 x 480, "
                "compute or export them at that size"
            )
        id = f"{self.split}/{pair.id}"
        return Sample(id, image, {"normals": label.value}, {"normals": label.valid}, pair.prompt)


def inside_crop(valid: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Return what is valid inside Eigen's crop of a map of 480 x 640 pixels."""
    inside = torch.zeros_like(valid)
    inside[CROP_ROWS, CROP_COLUMNS] = valid[CROP_ROWS, CROP_COLUMNS]
    return inside


def _pairs(root: str | Path, split: Split, list_file: str | Path | None) -> list[Pair]:
    pairs = NYUDepth(root=root, split=split, list_file=list_file).pairs
    return sorted(pairs, key=lambda pair: pair.id)


def _require_size(pair: Pair, image: UInt8[Tensor, "3 h w"]) -> None:
    if image.shape[-2:] != SIZE_HW:
        height, width = image.shape[-2:]
        raise InputError(
            f"{pair.image}: {width} x {height} pixels; images of NYU have 640 x 480, on which its "
            "crop is defined: use the files as they are published"
        )


def _find_normals(folder: Path, pairs: Sequence[Pair], split: Split) -> list[tuple[Pair, Path]]:
    """Return the samples that have a file of normals, with the file."""
    find = file_finder()
    inner = folder / FOLDERS[split]
    files = []
    for pair in pairs:
        # of two files the one without rounding
        paths = [inner / f"{pair.id}{suffix}" for suffix in (".npy", ".png")]
        path = next(filter(None, map(find, paths)), None)
        if path is not None:
            files.append((pair, path))
    if not files:
        raise InputError(
            f"{inner}: holds no normals of the {split} images; put PNG or NPY files there, in the "
            "sub-folders and with the names of the images"
        )
    return files
