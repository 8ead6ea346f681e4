"""Taskonomy for the few-shot benchmark: its tiny split in any of the layouts that are around."""

import functools
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from diffsight.datasets.files import decode
from diffsight.datasets.source import AbstractSource, Labelled, SourceTask
from diffsight.datasets.taskonomy_labels import (
    CLASSES,
    Preset,
    class_maps,
    class_tasks,
    dense_maps,
    rules,
)
from diffsight.errors import InputError

log = logging.getLogger(__name__)

TRAIN_BUILDINGS = (
    *("allensville", "beechwood", "benevolence", "coffeen", "cosmos", "forkland", "hanson"),
    *("hiteman", "klickitat", "lakeville", "leonardo", "lindenwood", "marstons", "merom"),
    *("mifflinburg", "newfields", "onaga", "pinesdale", "pomaria", "ranchester", "shelbyville"),
    *("stockman", "tolstoy", "wainscott", "woodbine"),
)
SPLITS = {
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
CLASS_POOL = 500
"""Most images that a class is learned from: finding all means to read every label file."""

# names of folders and in file names: today's, and those of the first releases
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


class Taskonomy(AbstractSource):
    """Supports come from the 25 training buildings of the tiny split, queries from ``split``.

    An image's id is ``BUILDING/point_P_view_V`` in every layout, and lists are ordered by the hash
    of it, so that their beginning is a random part that no machine changes.

    Args:
        root: folder of the data set.
        preset: what is scored. ``vtm``: channels in [0, 1] of 256 x 256 pixels, resized before they
            are masked, as the published tables have it; ``clean``: the same without pixels that
            are mixed with invalid ones; ``native``: one map per task at the size of the files,
            depth in metres.
        layout: of the folders; ``auto`` finds it out.
        split: what is scored: ``test`` or ``val`` (five buildings each), or one of these buildings.
        tasks: some of the 22 (nine dense ones, ``segment_semantic/CLASS`` of twelve classes, and
            ``segment_semantic`` of all of them); default: all that there are files for.
        max_images: queries of a task, at most.

    Attributes:
        missing: tasks that were left out, with the folder that is not there.
        missing_buildings: buildings of the two splits without images.

    Raises:
        InputError: if no layout fits, nothing is left, or an argument is unknown.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        preset: Preset = "vtm",
        layout: Layout = "auto",
        split: str = "muleshoe",
        tasks: Sequence[str] = (),
        max_images: int | None = None,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise InputError(f"max_images {max_images}: at least one image must be scored")
        scored = _buildings(split)
        self._tree, images = _find(Path(root), layout, (*TRAIN_BUILDINGS, *scored))
        self._train = _by_hash(id for b in TRAIN_BUILDINGS for id in images[b])
        self._scored = _by_hash(id for b in scored for id in images[b])
        if not self._train or not self._scored:
            empty = "the training buildings" if self._scored else split
            raise InputError(
                f"{root}: holds no images of {empty}; supports come from the training buildings of "
                "the tiny split, queries from others: download both, or name another split"
            )
        lists = hashlib.sha256("\n".join((*self._train, "", *self._scored)).encode()).hexdigest()
        counts = f"{len(self._train)} + {len(self._scored)} files ({lists[:8]})"
        self.name = f"taskonomy, {split}, {preset}, {counts}"
        if max_images is not None:
            self.name += f", {max_images} images"
        self.preset: Preset = preset
        self.max_images = max_images
        self.skipped = {}
        self.missing_buildings = tuple(b for b, found in images.items() if not found)
        self._rules = rules(preset)
        self.missing: dict[str, str] = {}
        self.tasks: Mapping[str, SourceTask] = self._choose(tasks, scored)
        self._present: dict[str, frozenset[int]] = {}

    def pool(self, task: str) -> Sequence[str]:
        """Training images; of one class, up to 500 that show it.

        The first call for a class reads label files until it has them, which can take minutes.
        """
        most = CLASS_POOL if self.tasks[task].scoring == "binary" else None
        return list(itertools.islice(self._showing(task, self._train), most))

    def queries(self, task: str) -> Sequence[str]:
        """Images of the split; of one class those that show it, which may take minutes to find."""
        return list(itertools.islice(self._showing(task, self._scored), self.max_images))

    def read(self, task: str, id: str) -> Labelled | None:
        """One image with its label; None, and a note in ``skipped``, if a file is damaged."""
        rule = self._rules.get(task)
        domain = "segment_semantic" if rule is None else rule.domain
        image, counts = self._picture("rgb", id), self._picture(domain, id)
        by_depth = rule is not None and rule.by_depth
        depth = self._picture("depth_euclidean", id) if by_depth else None
        if image is None or counts is None or (by_depth and depth is None):
            return None
        sizes = [x.shape[:2] for x in (image, counts, depth) if x is not None]
        if len(set(sizes)) > 1:
            self._skip(domain, id, f"image and labels differ in size: {sizes}")
            return None
        maps = (
            class_maps(self.tasks[task], self.preset, counts)
            if rule is None
            else dense_maps(rule, self.preset, counts, depth)
        )
        if not maps[1].any():
            self._skip(domain, id, "no pixel has a label")
            return None
        return Labelled(id, torch.from_numpy(image).permute(2, 0, 1).contiguous(), *maps)

    def _choose(self, tasks: Sequence[str], scored: Sequence[str]) -> dict[str, SourceTask]:
        """Those that are asked for and have folders; the others go to ``missing``."""
        every = {name: rule.task for name, rule in self._rules.items()} | class_tasks()
        for name in tasks:
            if name not in every:
                raise InputError(f"unknown Taskonomy task {name!r}: choose {', '.join(every)}")
        chosen = {}
        for name in tasks or every:
            rule = self._rules.get(name)
            needed = {"segment_semantic" if rule is None else rule.domain}
            if rule is not None and rule.by_depth:
                needed.add("depth_euclidean")
            absent = [
                domain
                for domain in sorted(needed)
                if not (self._tree.has(domain, TRAIN_BUILDINGS) and self._tree.has(domain, scored))
            ]
            if absent:
                self.missing[name] = absent[0]
            else:
                chosen[name] = every[name]
        if not chosen:
            absent_folders = ", ".join(sorted(set(self.missing.values())))
            raise InputError(
                f"{self._tree.root}: no folder of labels for any of the tasks (missing: "
                f"{absent_folders}): download them beside rgb, for training and for test buildings"
            )
        return chosen

    def _showing(self, task: str, ids: Sequence[str]) -> Iterator[str]:
        """The ids, or for the task of one class those that show it."""
        if self.tasks[task].scoring != "binary":
            return iter(ids)
        number = CLASSES[self.tasks[task].classes[1]]
        return (id for id in ids if number in self._classes(id))

    def _classes(self, id: str) -> frozenset[int]:
        """What an image shows; every file is read once."""
        if id not in self._present:
            picture = self._picture("segment_semantic", id)
            found = [] if picture is None else np.unique(picture).tolist()
            self._present[id] = frozenset(found)
            if len(self._present) % 1000 == 0:
                log.info("%s: %d label files searched for classes", self.name, len(self._present))
        return self._present[id]

    def _picture(self, domain: str, id: str) -> np.ndarray | None:
        path = self._tree.path(domain, id)
        try:
            return decode(path, ("PNG",), lambda image: _pixels(path, domain, image))
        except InputError as error:
            self._skip(domain, id, str(error))
            return None

    def _skip(self, domain: str, id: str, reason: str) -> None:
        path = self._tree.path(domain, id).relative_to(self._tree.root)
        self.skipped[path.as_posix()] = reason


@dataclass(frozen=True)
class _Tree:
    """Where files are: ``template`` is one of ``LAYOUTS``."""

    root: Path
    template: str

    def images(self, buildings: Sequence[str]) -> dict[str, list[str]]:
        """Ids of the images of every building."""

        @functools.cache
        def names(folder: Path) -> Sequence[str]:
            return os.listdir(folder) if folder.is_dir() else ()

        found = {}
        for building in buildings:
            pattern = self._file("rgb", "rgb", building, "*")
            before, after = pattern.name.split("*")
            views = [
                name[len(before) : -len(after)]
                for name in names(pattern.parent)
                if name.startswith(before) and name.endswith(after)
            ]
            found[building] = [f"{building}/{v}" for v in views if _VIEW.fullmatch(v)]
        return found

    def has(self, domain: str, buildings: Sequence[str]) -> bool:
        """Whether any of the buildings has a folder of the domain."""
        return any(
            self._file(folder, folder, building, "*").parent.is_dir()
            for folder in _NAMES[domain]
            for building in buildings
        )

    def path(self, domain: str, id: str) -> Path:
        """The file, under whichever of its names it is there."""
        building, view = id.split("/")
        names = _NAMES[domain]
        candidates = [
            self._file(folder, name, building, view) for folder in names for name in names
        ]
        return next((path for path in candidates if path.is_file()), candidates[0])

    def _file(self, folder: str, name: str, building: str, view: str) -> Path:
        inner = self.template.format(building=building, domain=folder, view=view)
        return self.root / f"{inner}_domain_{name}.png"


def _buildings(split: str) -> tuple[str, ...]:
    if split in SPLITS:
        return SPLITS[split]
    single = [building for group in SPLITS.values() for building in group]
    if split in single:
        return (split,)
    raise InputError(
        f"unknown Taskonomy split {split!r}: choose {', '.join(SPLITS)}, or one building of "
        f"{', '.join(single)}"
    )


def _find(
    root: Path, layout: Layout, buildings: Sequence[str]
) -> tuple[_Tree, dict[str, list[str]]]:
    """The files' layout, and the ids of the images by building."""
    for name in LAYOUTS if layout == "auto" else (layout,):
        tree = _Tree(root, LAYOUTS[name])
        images = tree.images(buildings)
        if any(images.values()):
            return tree, images
    forms = (t.format(building="BUILDING", domain="TASK", view="point_P") for t in LAYOUTS.values())
    known = ", ".join(f"{name} ({form}...)" for name, form in zip(LAYOUTS, forms, strict=True))
    raise InputError(
        f"{root}: no rgb images of the tiny split's buildings in layout {layout}; known layouts: "
        f"{known}; check the path and the names of the buildings (lower case)"
    )


def _by_hash(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())


def _pixels(path: Path, domain: str, image: Image.Image) -> np.ndarray:
    """``h w 3`` bytes, ``h w`` words, or for classes ``h w`` bytes."""
    if domain in _COLOURS:
        return np.array(image.convert("RGB"))
    if domain == "segment_semantic":
        if image.mode not in ("L", "P"):
            raise InputError(f"{path}: mode {image.mode}, but classes have 8 bits in one channel")
        return np.array(image)
    if not image.mode.startswith("I"):
        raise InputError(
            f"{path}: mode {image.mode}, but {domain} has 16 bits in one channel (a picture for "
            "the eye?): download the labels again"
        )
    return np.array(image).astype(np.uint16)
