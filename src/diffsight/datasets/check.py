"""Reading a data set end to end: counts, labels, unusable files, images in two splits."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight.datasets.ade20k import ADE20K, ADE20KFull
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.cityscapes import Cityscapes, MapillaryVistas
from diffsight.datasets.coco_keypoints import CocoKeypoints
from diffsight.datasets.kitti import KITTIDepth
from diffsight.datasets.nuscenes import NuScenes
from diffsight.datasets.nyu import NYUDepth
from diffsight.datasets.refcoco import RefCOCO
from diffsight.datasets.sun_rgbd import SUNRGBD
from diffsight.errors import InputError, suggest

JOINTS_ARE = ("without a label", "occluded", "visible")


@dataclass
class SplitReport:
    """Statistics of a split.

    Attributes:
        name: of the split.
        count: samples.
        official: samples in the literature.
        unreadable: one line for each file that cannot be used.
        labelled: fraction of pixels, or joints, with a label.
        histogram: pixels by class name, or joints by how they are labelled.
        depth_m: smallest, median of the medians, and largest depth.
        notes: possible mistakes.
        unit: what is labelled, in the plural.
        pixels: their number.
    """

    name: str
    count: int
    official: int
    unreadable: list[str] = field(default_factory=list)
    labelled: float = 0.0
    histogram: dict[str, int] = field(default_factory=dict)
    depth_m: tuple[float, float, float] | None = None
    notes: list[str] = field(default_factory=list)
    unit: str = "pixels"
    pixels: int = 0


@dataclass(frozen=True)
class Known:
    """A data set that can be checked.

    Attributes:
        splits: samples in the literature by split.
        build: the data set, given its folder and a split.
        median_m: where the median of the images' median depths is, if the files' scale is right;
            narrower than the factor of 3.9 between NYU's scale (/ 1000) and KITTI's (/ 256).
    """

    splits: Mapping[str, int]
    build: Callable[[Path, Any], AbstractDataset]
    median_m: tuple[float, float] | None = None


def _refcoco(variant: Any) -> Callable[[Path, Any], AbstractDataset]:
    return lambda root, split: RefCOCO(
        root=root, variant=variant, split=split, size=None, all_images=False
    )


def _kitti(root: Path, split: Any) -> AbstractDataset:
    return KITTIDepth(root=root, list_file=root / f"eigen_{split}.txt", split=split)


KNOWN: Mapping[str, Known] = {
    "ade20k": Known(
        {"training": 20210, "validation": 2000},
        lambda root, split: ADE20K(root=root, split=split),
    ),
    "ade20k-full": Known(
        {"training": 25574, "validation": 2000},
        lambda root, split: ADE20KFull(root=root, split=split),
    ),
    "cityscapes": Known(
        {"train": 2975, "val": 500}, lambda root, split: Cityscapes(root=root, split=split)
    ),
    "mapillary": Known(
        {"training": 18000, "validation": 2000},
        lambda root, split: MapillaryVistas(root=root, split=split),
    ),
    "nyu": Known(
        {"train": 24231, "test": 654},
        lambda root, split: NYUDepth(root=root, split=split),
        median_m=(1.0, 6.0),
    ),
    "kitti": Known({"train": 23158, "test": 652}, _kitti, median_m=(6.0, 40.0)),
    "sun-rgbd": Known(
        {"train": 5285, "test": 5050},
        lambda root, split: SUNRGBD(root=root, split=split),
        median_m=(1.0, 6.0),
    ),
    "coco-keypoints": Known(
        {"train": 118287, "val": 5000},
        lambda root, split: CocoKeypoints(root=root, split=split),
    ),
    "nuscenes": Known(
        {"train": 28130, "val": 6019},
        lambda root, split: NuScenes(root=root, index=root / "trainval.json", split=split),
    ),
    "refcoco": Known(
        {"train": 42404, "val": 3811, "testA": 1975, "testB": 1810}, _refcoco("refcoco")
    ),
    "refcoco+": Known(
        {"train": 42278, "val": 3805, "testA": 1975, "testB": 1798}, _refcoco("refcoco+")
    ),
    "refcocog": Known({"train": 42226, "val": 2573, "test": 5023}, _refcoco("refcocog")),
}


def check(
    name: str,
    root: Path,
    *,
    splits: Sequence[str] = (),
    advance: Callable[[int], None] = lambda total: None,
) -> tuple[list[SplitReport], dict[str, int]]:
    """Read every sample of some splits.

    Args:
        name: one of ``KNOWN``.
        root: folder of the data set.
        splits: which ones; default: all.
        advance: called with the number of samples of the split, after each.

    Returns:
        A report per split, and for pairs of splits how many images are the same.

    Raises:
        InputError: for an unknown split, or if one cannot be opened at all.
    """
    checked = KNOWN[name]
    for split in splits:
        if split not in checked.splits:
            raise InputError(f"{name} has no split {split!r}: {suggest(split, checked.splits)}")
    reports, images = [], {}
    for split in dict.fromkeys(splits) or checked.splits:
        official = checked.splits[split]
        try:
            data = checked.build(root, split)
        except InputError as error:
            hint = "" if splits else "; where only a part of the data is there, add --split NAME"
            raise InputError(f"{error}{hint}") from None
        counter = _Counter(data)
        for index in range(len(data)):
            try:
                counter.add(data[index])
            except InputError as error:
                counter.unreadable[str(error)] = None
            advance(len(data))
        images[split] = counter.images
        reports.append(counter.report(split, official, checked.median_m))
    names = list(images)
    overlap = {
        f"{a} and {b}": len(images[a] & images[b])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    return reports, overlap


class _Counter:
    """Counts of a split, while it is read."""

    def __init__(self, data: AbstractDataset) -> None:
        self.data = data
        self.unreadable: dict[str, None] = {}  # an image may belong to several samples
        self.images: set[bytes] = set()
        self.pixels = self.labelled = 0
        self.counts: Tensor = torch.zeros(0, dtype=torch.long)
        self.medians_m: list[float] = []
        self.range_m = (float("inf"), 0.0)
        self.unit = "pixels"

    def add(self, sample: Sample) -> None:
        self.images.add(hashlib.sha256(sample.image.numpy().tobytes()).digest())
        if sample.people is not None:
            self.unit = "joints"
        if sample.rig is not None:
            self.unit = "cells"
        for name, valid, values in _labels(sample):
            self.pixels += valid.numel()
            self.labelled += int(valid.sum())
            if not len(values):
                continue
            if name == "depth_m":
                self.medians_m.append(float(values.median()))
                low, high = self.range_m
                self.range_m = (min(low, float(values.min())), max(high, float(values.max())))
            else:
                counts = torch.bincount(values)
                size = max(len(counts), len(self.counts))
                self.counts = _padded(self.counts, size) + _padded(counts, size)

    def report(
        self, split: str, official: int, median_m: tuple[float, float] | None
    ) -> SplitReport:
        report = SplitReport(split, len(self.data), official, list(self.unreadable))
        report.pixels = self.pixels
        report.labelled, report.unit = self.labelled / max(self.pixels, 1), self.unit
        names = next(iter(self.data.class_names.values()), ())
        if self.unit == "joints":
            names = JOINTS_ARE
        report.histogram = {
            names[i] if i < len(names) else str(i): int(count)
            for i, count in enumerate(self.counts)
        }
        if self.medians_m:
            median = float(torch.tensor(self.medians_m).median())
            report.depth_m = (self.range_m[0], median, self.range_m[1])
            if median_m is not None and not median_m[0] < median < median_m[1]:
                report.notes.append(
                    f"the median depth is {median:.3g} m, in this data set it is {median_m[0]:g} "
                    f"to {median_m[1]:g} m: is the scale of the files the right one?"
                )
        if len(self.data) != official:
            report.notes.append(f"{len(self.data):,} samples, {official:,} in the literature")
        if self.unit == "joints":
            return report
        if names and len(self.counts) and not self.counts[0]:
            report.notes.append(
                f"no pixel is {names[0]!r}: were ids shifted up by one (0 is no class in the files "
                "of the challenge)?"
            )
        whole = len(self.data) == official and len(self.counts) > 0
        if names and whole and not any(self.counts[len(names) - 1 :]):
            report.notes.append(
                f"no pixel is {names[-1]!r}: were ids shifted down by one (the files of the "
                "challenge count classes from 1)?"
            )
        return report


def _labels(sample: Sample) -> Iterator[tuple[str, Tensor, Tensor]]:
    if sample.people is not None:
        seen = sample.people.keypoints[..., 2].long()
        yield "keypoints", seen > 0, seen.flatten()
        return
    for name, label in sample.labels.items():
        valid = sample.valid[name]
        if sample.rig is not None:  # classes that may overlap
            yield name, valid, (label > 0.5)[:, valid].nonzero()[:, 0]
        else:
            yield name, valid, label.reshape(valid.shape)[valid]


def _padded(counts: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(counts, (0, size - len(counts)))
