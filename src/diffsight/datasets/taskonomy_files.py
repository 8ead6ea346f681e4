"""Find and read the files of Taskonomy's tiny split in any of the four common layouts.

Taskonomy calls each kind of file a domain, such as ``rgb`` or ``normal``.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from diffsight.datasets.files import decode
from diffsight.errors import InputError

log = logging.getLogger(__name__)

TRAIN_BUILDINGS = (
    *("allensville", "beechwood", "benevolence", "coffeen", "cosmos", "forkland", "hanson"),
    *("hiteman", "klickitat", "lakeville", "leonardo", "lindenwood", "marstons", "merom"),
    *("mifflinburg", "newfields", "onaga", "pinesdale", "pomaria", "ranchester", "shelbyville"),
    *("stockman", "tolstoy", "wainscott", "woodbine"),
)
SPLITS = {
    "train": TRAIN_BUILDINGS,
    "test": ("ihlen", "mcdade", "muleshoe", "noxapater", "uvalda"),
    "val": ("collierville", "corozal", "darden", "markleeville", "wiconisco"),
}
LAYOUTS = {
    "building": "{building}/{domain}/{view}",  # the original download
    "merged": "{domain}/{building}_{view}",  # VTM
    "task": "{domain}/{building}/{view}",  # MultiMAE
    "omnidata": "{domain}/taskonomy/{building}/{view}",
}
Layout = Literal["auto", "building", "merged", "task", "omnidata"]

# names of each domain in folder and file names: the current one, then that of the first releases
_NAMES = {
    "rgb": ("rgb",),
    "depth_euclidean": ("depth_euclidean", "mist"),
    "depth_zbuffer": ("depth_zbuffer", "depth"),
    "edge_texture": ("edge_texture", "edge2d"),
    "edge_occlusion": ("edge_occlusion", "edge"),
    "keypoints2d": ("keypoints2d", "keypoint2d"),
    "keypoints3d": ("keypoints3d", "keypoint"),
    "reshading": ("reshading", "reshade"),
    "principal_curvature": ("principal_curvature", "curvature"),
    "normal": ("normal",),
    "segment_semantic": ("segment_semantic", "segmentsemantic"),
}
_COLOURS = ("rgb", "normal", "reshading", "principal_curvature")
_VIEW = re.compile(r"point_\d+_view_\d+")


class TaskonomyFiles:
    """Image and label files below a folder, found by domain and image id.

    The id of an image is ``BUILDING/point_P_view_V`` in every layout. The listing of each folder
    and the class ids in each class map are kept in memory.

    Args:
        root: folder of the data set.
        layout: layout of the folders; ``auto`` detects it.

    Raises:
        InputError: if no layout fits.
    """

    def __init__(self, root: str | Path, layout: Layout = "auto") -> None:
        self.root = Path(root)
        self._listings: dict[Path, Sequence[str]] = {}
        self._classes: dict[str, frozenset[int]] = {}
        buildings = [building for group in SPLITS.values() for building in group]
        for name in LAYOUTS if layout == "auto" else (layout,):
            self._template = LAYOUTS[name]
            if any(self.images((building,)) for building in buildings):
                return
        forms = (
            t.format(building="BUILDING", domain="TASK", view="point_P") for t in LAYOUTS.values()
        )
        listed = ", ".join(f"{name} ({form}...)" for name, form in zip(LAYOUTS, forms, strict=True))
        raise InputError(
            f"{root}: no rgb images of the tiny split's buildings in layout {layout}; known "
            f"layouts: {listed}; check the path and the names of the buildings (lower case)"
        )

    def images(self, buildings: Iterable[str]) -> list[str]:
        """Return the ids of the images of some buildings, ordered by the hashes of the ids.

        So the first N images are a random sample that is the same on every machine.
        """
        ids = (id for building in buildings for id in self._list_images(building))
        return sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())

    def has_folder(self, domain: str, buildings: Sequence[str]) -> bool:
        """Return whether any of the buildings has a folder of the domain."""
        return any(
            self._file(folder, folder, building, "*").parent.is_dir()
            for folder in _NAMES[domain]
            for building in buildings
        )

    def path(self, domain: str, id: str) -> Path:
        """Return the path of an image's file in a domain.

        Folder and file may have the current or the old name of the domain. If neither file exists,
        the path with the current name is returned.
        """
        building, view = id.split("/")
        names = _NAMES[domain]
        candidates = [
            self._file(folder, name, building, view) for folder in names for name in names
        ]
        return next((path for path in candidates if path.is_file()), candidates[0])

    def read(self, domain: str, id: str) -> np.ndarray:
        """Return the pixels of an image's file in a domain.

        They are ``h w 3`` of uint8 for pictures (``rgb``, ``normal``, ``reshading``,
        ``principal_curvature``), ``h w`` of uint8 for class ids, and ``h w`` of uint16 otherwise.

        Raises:
            InputError: if the file is damaged or has another type of pixels.
        """
        path = self.path(domain, id)
        return decode(path, ("PNG",), lambda image: _pixels(path, domain, image))

    def classes(self, id: str) -> frozenset[int]:
        """Return the class ids that an image shows; empty if its label file is damaged."""
        if id not in self._classes:
            try:
                self._classes[id] = frozenset(np.unique(self.read("segment_semantic", id)).tolist())
            except InputError as error:
                log.warning("skipped: %s", error)
                self._classes[id] = frozenset()
            if len(self._classes) % 1000 == 0:
                log.info("%s: %d label files searched for classes", self.root, len(self._classes))
        return self._classes[id]

    def _list_images(self, building: str) -> list[str]:
        """Return the ids of a building's images in the order of the folder."""
        pattern = self._file("rgb", "rgb", building, "*")
        folder = pattern.parent
        if folder not in self._listings:
            self._listings[folder] = os.listdir(folder) if folder.is_dir() else ()
        before, after = pattern.name.split("*")
        views = [
            name[len(before) : -len(after)]
            for name in self._listings[folder]
            if name.startswith(before) and name.endswith(after)
        ]
        return [f"{building}/{view}" for view in views if _VIEW.fullmatch(view)]

    def _file(self, folder: str, name: str, building: str, view: str) -> Path:
        """Return the path for a domain's names in folder and file, in the layout of the files."""
        inner = self._template.format(building=building, domain=folder, view=view)
        return self.root / f"{inner}_domain_{name}.png"


def buildings_of(split: str) -> tuple[str, ...]:
    """Return the buildings of a split, or the building with this name.

    Raises:
        InputError: if there is neither a split nor a building with this name.
    """
    if split in SPLITS:
        return SPLITS[split]
    single = [building for group in SPLITS.values() for building in group]
    if split in single:
        return (split,)
    raise InputError(
        f"unknown Taskonomy split {split!r}: choose {', '.join(SPLITS)}, or one building of "
        f"{', '.join(single)}"
    )


def _pixels(path: Path, domain: str, image: Image.Image) -> np.ndarray:
    """Return the pixels of an opened image as ``TaskonomyFiles.read`` does.

    Raises:
        InputError: if the type of the pixels does not fit the domain.
    """
    if domain in _COLOURS:
        return np.array(image.convert("RGB"))
    if domain == "segment_semantic":
        if image.mode not in ("L", "P"):
            raise InputError(f"{path}: mode {image.mode}, but classes have 8 bits in one channel")
        return np.array(image)
    if not image.mode.startswith("I"):
        raise InputError(
            f"{path}: mode {image.mode}, but {domain} has 16 bits in one channel (is it a preview "
            "picture?): download the labels again"
        )
    return np.array(image).astype(np.uint16)
