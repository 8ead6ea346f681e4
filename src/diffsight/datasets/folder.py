"""A user's own images and depth maps, by name or by a manifest."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.depth import DEPTH_SUFFIXES, check_encoding
from diffsight.datasets.files import read_text
from diffsight.datasets.manifest import read_manifest
from diffsight.datasets.pairs import Pair, match_names, one_side, read_pair, require_files
from diffsight.datasets.transforms import resize
from diffsight.errors import InputError
from diffsight.formats.text import parse_json, reading
from diffsight.types import Camera

MANIFEST = ", or list the pairs in a manifest"
_CAMERA_KEYS = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")


class Folder(AbstractDataset):
    """Pairs of an image and a depth map; images may differ in size.

    Without a manifest, ``images/a/b.jpg`` belongs to ``depth/a/b.png``: the paths below the two
    folders agree but for the suffix and for upper and lower case. Files of other kinds are ignored.

    The split is a function of the images' bytes, never of their names: an image keeps its side when
    it is renamed or when others are added. With two samples or more neither side is empty.

    Args:
        root: folder that the other paths are relative to.
        images: folder of the images.
        labels: folder of the depth maps.
        unit: what one count of a depth map is, as ``read_depth`` takes it (``mm``, ``m/256`` ...).
        invalid: the count that stands for "no measurement"; 0, NaN and infinity always do.
        manifest: list of the samples, see ``read_manifest``; replaces ``images`` and ``labels``.
        split: ``train``, ``val`` or ``all``.
        val_fraction: expected fraction of ``val``.
        camera: JSON with ``fx_px fy_px cx_px cy_px width_px height_px`` of the one camera that took
            all images; the centre of the top-left pixel is (0, 0).
        size: height and width that every sample is scaled to, or None to leave it as it is.

    Raises:
        InputError: if a folder is missing or empty, a file has no partner, or an argument is wrong.
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
            pairs = _match(root / images, root / labels, unit)
        else:
            pairs = require_files(
                read_manifest(root / manifest, unit), f"correct the paths in {root / manifest}"
            )
        self.name = root.resolve().name
        pairs = sorted(pairs, key=lambda pair: pair.id) if split != "all" else pairs
        side = one_side([pair.image for pair in pairs], split, val_fraction, root)
        self.pairs = [pairs[index] for index in side]
        self.invalid = invalid
        self.camera = None if camera is None else _read_camera(root / camera)
        self.size = size

    def __len__(self) -> int:
        """Return the number of samples of the split."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m``.

        Raises:
            InputError: if a file cannot be used, or image, depth map and camera differ in size.
        """
        sample = read_pair(self.pairs[index], self.invalid)
        if self.camera is not None:
            camera, (height, width) = self.camera
            if sample.image.shape[-2:] != (height, width):
                found = f"{sample.image.shape[2]} x {sample.image.shape[1]}"
                raise InputError(
                    f"{self.pairs[index].image}: {found} pixels, but the camera file says {width} "
                    f"x {height}: correct it, or leave it out"
                )
            sample = replace(sample, camera=camera)
        return sample if self.size is None else resize(sample, *self.size)


def _match(images: Path, labels: Path, unit: str) -> list[Pair]:
    """Return pairs by name, ordered by it."""
    return [
        Pair(image.relative_to(images).with_suffix("").as_posix(), image, label, unit)
        for image, label in match_names(images, labels, DEPTH_SUFFIXES, "depth map", MANIFEST)
    ]


def _read_camera(path: Path) -> tuple[Camera, tuple[int, int]]:
    """Return intrinsics, and the height and width they belong to."""
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
