"""NYU Depth v2 as the few-shot benchmark uses it: depth, and normals from other sources."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.nyu import FOLDERS, NYUDepth, Split
from diffsight.datasets.pairs import Pair, make_file_finder, read_pair
from diffsight.errors import InputError

MIN_DEPTH_M, MAX_DEPTH_M = 1e-3, 10.0
SIZE_HW = (480, 640)
# Eigen's crop excludes the border of the Kinect's maps, which is empty or badly aligned
CROP_ROWS, CROP_COLUMNS = slice(45, 471), slice(41, 601)


class NYUFewShotDepth(AbstractDataset):
    """Images with z-depth ``depth_m`` of 480 x 640 pixels, ordered by name.

    Only depths above 1e-3 m and below 10 m are valid.

    Args:
        root: folder of the data set, as ``NYUDepth`` reads it.
        split: ``train``, ``official-train`` or ``test``, as ``NYUDepth`` reads it.
        list_file: list of samples, as ``NYUDepth`` reads it; None reads all.
        crop: mark pixels outside Eigen's crop (rows 45 to 470, columns 41 to 600) as not valid.

    Raises:
        InputError: if files of the data set are missing.
    """

    prompt_source = NYUDepth.prompt_source

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
                f"{pair.depth}: no depth between {MIN_DEPTH_M:g} and {MAX_DEPTH_M:g} m; copy NYU's "
                "depth map again (a 16-bit PNG of millimetres), or leave the file out of the list"
            )
        if self.crop:
            valid = crop_validity(valid)
        id = f"{self.split}/{pair.id}"
        return Sample(id, sample.image, {"depth_m": depth_m}, {"depth_m": valid}, pair.prompt)


class NYUNormals(AbstractDataset):
    """Images of NYU with surface normals: unit vectors, x right, y down, z forward; 480 x 640.

    NYU comes without normals, and papers use normals from different sources: name the folder after
    the source. Images without a normal file are left out. Pixels without a direction are not valid.

    Args:
        root: folder of the data set, as ``NYUDepth`` reads it.
        normals: folder with the same sub-folders as ``root``. A file has the name of its image
            with the suffix ``.png`` (v / 127.5 - 1) or ``.npy`` (height, width, 3).
        split: ``train``, ``official-train`` or ``test``, as ``NYUDepth`` reads it.
        list_file: list of samples, as ``NYUDepth`` reads it; None reads all.

    Raises:
        InputError: if files of the data set are missing, or no image has normals.
    """

    prompt_source = NYUDepth.prompt_source

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
                f"{path}: normals of {width} x {height} pixels for an image of 640 x 480: compute "
                "or export them at the size of the image"
            )
        id = f"{self.split}/{pair.id}"
        return Sample(id, image, {"normals": label.value}, {"normals": label.valid}, pair.prompt)


def crop_validity(valid: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Return ``valid`` with all pixels outside Eigen's crop set to False, for 480 x 640 pixels."""
    cropped = torch.zeros_like(valid)
    cropped[CROP_ROWS, CROP_COLUMNS] = valid[CROP_ROWS, CROP_COLUMNS]
    return cropped


def _pairs(root: str | Path, split: Split, list_file: str | Path | None) -> list[Pair]:
    """Return the image and depth files of a split, ordered by id."""
    pairs = NYUDepth(root=root, split=split, list_file=list_file).pairs
    return sorted(pairs, key=lambda pair: pair.id)


def _require_size(pair: Pair, image: UInt8[Tensor, "3 h w"]) -> None:
    """Raise an error for an image that does not have the size of NYU's images."""
    if image.shape[-2:] != SIZE_HW:
        height, width = image.shape[-2:]
        raise InputError(
            f"{pair.image}: {width} x {height} pixels; images of NYU have 640 x 480, for which "
            "Eigen's crop is defined: use the files as they are published"
        )


def _find_normals(folder: Path, pairs: Sequence[Pair], split: Split) -> list[tuple[Pair, Path]]:
    """Return the samples that have a normal file, each with the path of this file.

    Raises:
        InputError: if no sample has one.
    """
    find = make_file_finder()
    inner = folder / FOLDERS[split]
    files = []
    for pair in pairs:
        # NPY first, because PNG rounds the values
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
