"""A data set of the user's own images and depth maps, paired by name or by a manifest."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.depth import DEPTH_SUFFIXES, check_encoding
from diffsight.datasets.files import read_text
from diffsight.datasets.manifest import read_manifest
from diffsight.datasets.pairs import Pair, match_names, read_pair, require_files, select_split
from diffsight.datasets.transforms import resize
from diffsight.errors import InputError
from diffsight.formats.text import parse_json, reading
from diffsight.types import Camera

MANIFEST = ", or list the pairs in a manifest"
_CAMERA_KEYS = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")


class Folder(AbstractDataset):
    """Pairs of an image and a depth map; the images may differ in size.

    Without a manifest, ``images/a/b.jpg`` is paired with ``depth/a/b.png``: the paths inside the
    two folders are equal except for suffix and letter case. Files of other types are ignored.

    The split depends on the contents of the image files, never on their names. Each image stays in
    its split when it is renamed or when other images are added. With two or more samples, neither
    split is empty.

    Args:
        root: folder that the other paths are relative to.
        images: folder of the images.
        labels: folder of the depth maps.
        unit: unit of one count of a depth map, see ``read_depth`` (``mm``, ``m/256`` ...).
        invalid: count that means "no measurement"; 0, NaN and infinity always do.
        manifest: list of the samples, see ``read_manifest``; replaces ``images`` and ``labels``.
        split: ``train``, ``val`` or ``all``.
        val_fraction: expected fraction of samples in ``val``, between 0 and 1.
        camera: JSON file with ``fx_px fy_px cx_px cy_px width_px height_px`` of the camera that
            took all images; (0, 0) is the centre of the top-left pixel.
        size: height and width in pixels to which every sample is scaled; None keeps the size.

    Raises:
        InputError: if a folder is missing or empty, a file has no partner, or an argument is
            invalid.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        images: str = "images",
        labels: str = "depth",
        unit: str = "mm",
        invalid: int | float = 0,
        manifest: str | None = None,
        split: Literal["train", "val", "all"] = "all",
        val_fraction: float = 0.1,
        camera: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        root = Path(root)
        check_encoding(unit)
        if manifest is None:
            pairs = _match_pairs(root / images, root / labels, unit)
        else:
            pairs = require_files(
                read_manifest(root / manifest, unit), f"correct the paths in {root / manifest}"
            )
        self.name = root.resolve().name
        pairs = sorted(pairs, key=lambda pair: pair.id) if split != "all" else pairs
        indices = select_split([pair.image for pair in pairs], split, val_fraction, root)
        self.pairs = [pairs[index] for index in indices]
        self.invalid = invalid
        self.camera = None if camera is None else _read_camera(root / camera)
        self.size = size

    def __len__(self) -> int:
        """Return the number of samples of the split."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m``.

        Raises:
            InputError: if a file cannot be read, or image, depth map and camera differ in size.
        """
        sample = read_pair(self.pairs[index], self.invalid)
        if self.camera is not None:
            camera, (height, width) = self.camera
            if sample.image.shape[-2:] != (height, width):
                actual = f"{sample.image.shape[2]} x {sample.image.shape[1]}"
                raise InputError(
                    f"{self.pairs[index].image}: {actual} pixels, but the camera file says {width} "
                    f"x {height}: correct the camera file, or give none"
                )
            sample = replace(sample, camera=camera)
        return sample if self.size is None else resize(sample, *self.size)


def _match_pairs(images: Path, labels: Path, unit: str) -> list[Pair]:
    """Return pairs of images and depth maps with the same name, sorted by name.

    Raises:
        InputError: if a folder is missing or empty, or a file has no partner.
    """
    return [
        Pair(image.relative_to(images).with_suffix("").as_posix(), image, label, unit)
        for image, label in match_names(images, labels, DEPTH_SUFFIXES, "depth map", MANIFEST)
    ]


def _read_camera(path: Path) -> tuple[Camera, tuple[int, int]]:
    """Return the intrinsics in a camera file, and the height and width of the camera's images.

    Raises:
        InputError: if the file cannot be read, or a number is missing or impossible.
    """
    text = read_text(path, "a camera")
    keys = ", ".join(_CAMERA_KEYS)
    with reading(path, f"not a camera ({{reason}}); give JSON with the numbers {keys}"):
        values = parse_json(text)
        numbers = {key: float(values[key]) for key in _CAMERA_KEYS}
        for key, number in numbers.items():
            if not math.isfinite(number) or (not key.startswith("c") and number <= 0):
                raise ValueError(f"{key} is {number}")
        fx_px, fy_px, cx_px, cy_px, width, height = numbers.values()
    return Camera(fx_px, fy_px, cx_px, cy_px), (int(height), int(width))
