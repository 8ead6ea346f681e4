"""Read a data set from end to end: report counts, labels, unusable files and duplicate images."""

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

JOINT_STATES = ("without a label", "occluded", "visible")  # COCO's visibility flags 0, 1 and 2


@dataclass
class SplitReport:
    """Statistics of one split.

    Attributes:
        name: name of the split.
        count: number of samples.
        official: number of samples in the literature.
        unreadable: error messages of the samples that cannot be read, each only once.
        labelled: fraction of pixels, cells or joints that have a label, in [0, 1].
        histogram: number of pixels or cells by class name, or of joints by their state.
        depth_m: smallest depth, median of the images' median depths, and largest depth in metres;
            None without depth labels.
        notes: possible mistakes, one per line.
        unit: what ``labelled`` and ``histogram`` count: ``pixels``, ``cells`` (of a map around a
            vehicle) or ``joints``.
        pixels: total number of pixels, cells or joints, with or without a label.
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
class CheckableDataset:
    """A data set that ``check`` can read.

    Attributes:
        splits: number of samples in the literature by split.
        build: function that returns the data set for a root folder and a split.
        median_m: range in metres that contains the median of the images' median depths if the depth
            scale is right. If NYU depth (counts / 1000) is read with the scale of KITTI (counts /
            256), the median is 3.9 times as large and usually outside this range. None without
            depth labels.
    """

    splits: Mapping[str, int]
    build: Callable[[Path, Any], AbstractDataset]
    median_m: tuple[float, float] | None = None


def _refcoco_builder(variant: Any) -> Callable[[Path, Any], AbstractDataset]:
    return lambda root, split: RefCOCO(
        root=root, variant=variant, split=split, size=None, all_images=False
    )


def _build_kitti(root: Path, split: Any) -> AbstractDataset:
    path = root / f"eigen_{split}.txt"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file: copy the list of the Eigen split there, with a line "
            "'IMAGE DEPTH FOCAL' for every sample"
        )
    return KITTIDepth(root=root, list_file=path, split=split)


CHECKABLE_DATASETS: Mapping[str, CheckableDataset] = {
    "ade20k": CheckableDataset(
        {"training": 20210, "validation": 2000},
        lambda root, split: ADE20K(root=root, split=split),
    ),
    "ade20k-full": CheckableDataset(
        {"training": 25574, "validation": 2000},
        lambda root, split: ADE20KFull(root=root, split=split),
    ),
    "cityscapes": CheckableDataset(
        {"train": 2975, "val": 500}, lambda root, split: Cityscapes(root=root, split=split)
    ),
    "mapillary": CheckableDataset(
        {"training": 18000, "validation": 2000},
        lambda root, split: MapillaryVistas(root=root, split=split),
    ),
    "nyu": CheckableDataset(
        {"train": 24231, "test": 654},
        lambda root, split: NYUDepth(root=root, split=split),
        median_m=(1.0, 6.0),
    ),
    "kitti": CheckableDataset({"train": 23158, "test": 652}, _build_kitti, median_m=(6.0, 40.0)),
    "sun-rgbd": CheckableDataset(
        {"train": 5285, "test": 5050},
        lambda root, split: SUNRGBD(root=root, split=split),
        median_m=(1.0, 6.0),
    ),
    "coco-keypoints": CheckableDataset(
        {"train": 118287, "val": 5000},
        lambda root, split: CocoKeypoints(root=root, split=split),
    ),
    "nuscenes": CheckableDataset(
        {"train": 28130, "val": 6019},
        lambda root, split: NuScenes(root=root, index=root / "trainval.json", split=split),
    ),
    "refcoco": CheckableDataset(
        {"train": 42404, "val": 3811, "testA": 1975, "testB": 1810}, _refcoco_builder("refcoco")
    ),
    "refcoco+": CheckableDataset(
        {"train": 42278, "val": 3805, "testA": 1975, "testB": 1798}, _refcoco_builder("refcoco+")
    ),
    "refcocog": CheckableDataset(
        {"train": 42226, "val": 2573, "test": 5023}, _refcoco_builder("refcocog")
    ),
}


def check(
    name: str,
    root: Path,
    *,
    splits: Sequence[str] = (),
    advance: Callable[[int], None] = lambda total: None,
) -> tuple[list[SplitReport], dict[str, int]]:
    """Read every sample of some splits and report statistics and possible mistakes.

    Args:
        name: key of ``CHECKABLE_DATASETS``.
        root: folder of the data set.
        splits: names of the splits to read; empty reads all.
        advance: called after each sample with the number of samples in its split.

    Returns:
        One report per split, and the number of images that two splits have in common, by the names
        of the two (``"train and val"``).

    Raises:
        InputError: if the data set has no such split, or a split cannot be opened.
    """
    checked = CHECKABLE_DATASETS[name]
    for split in splits:
        if split not in checked.splits:
            raise InputError(f"{name} has no split {split!r}: {suggest(split, checked.splits)}")
    reports, images = [], {}
    for split in dict.fromkeys(splits) or checked.splits:
        official = checked.splits[split]
        try:
            data = checked.build(root, split)
        except InputError as error:
            hint = "" if splits else "; to check a part of the data set, add --split NAME"
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
    """Statistics of a split that accumulate while its samples are read."""

    def __init__(self, data: AbstractDataset) -> None:
        self.data = data
        # a dict as an ordered set: samples that share a damaged file have the same message
        self.unreadable: dict[str, None] = {}
        self.images: set[bytes] = set()  # SHA-256 of the pixels
        self.pixels = self.labelled = 0
        self.counts: Tensor = torch.zeros(0, dtype=torch.long)
        self.medians_m: list[float] = []
        self.range_m = (float("inf"), 0.0)
        self.unit = "pixels"

    def add(self, sample: Sample) -> None:
        """Count the image and the labels of a sample."""
        self.images.add(hashlib.sha256(sample.image.numpy().tobytes()).digest())
        if sample.people is not None:
            self.unit = "joints"
        if sample.rig is not None:
            self.unit = "cells"
        for name, valid, values in _iterate_labels(sample):
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
                self.counts = _pad(self.counts, size) + _pad(counts, size)

    def report(
        self, split: str, official: int, median_m: tuple[float, float] | None
    ) -> SplitReport:
        """Return the statistics of all added samples, with notes on possible mistakes.

        Args:
            split: name of the split.
            official: number of samples in the literature.
            median_m: see ``CheckableDataset``.
        """
        report = SplitReport(split, len(self.data), official, list(self.unreadable))
        report.pixels = self.pixels
        report.labelled, report.unit = self.labelled / max(self.pixels, 1), self.unit
        names = next(iter(self.data.class_names.values()), ())
        if self.unit == "joints":
            names = JOINT_STATES
        report.histogram = {
            names[i] if i < len(names) else str(i): int(count)
            for i, count in enumerate(self.counts)
        }
        if self.medians_m:
            median = float(torch.tensor(self.medians_m).median())
            report.depth_m = (self.range_m[0], median, self.range_m[1])
            if median_m is not None and not median_m[0] < median < median_m[1]:
                report.notes.append(
                    f"the median depth is {median:.3g} m, but {median_m[0]:g} to {median_m[1]:g} m "
                    "is usual for this data set: check the depth scale of the files"
                )
        if len(self.data) != official:
            report.notes.append(f"{len(self.data):,} samples, {official:,} in the literature")
        if self.unit == "joints":
            return report
        if names and len(self.counts) and not self.counts[0]:
            report.notes.append(
                f"no pixel is {names[0]!r}: were ids shifted up by one (in ADE20K's challenge "
                "files 0 means no class)?"
            )
        is_complete = len(self.data) == official and len(self.counts) > 0
        if names and is_complete and not any(self.counts[len(names) - 1 :]):
            report.notes.append(
                f"no pixel is {names[-1]!r}: were ids shifted down by one (ADE20K's challenge "
                "files count classes from 1)?"
            )
        return report


def _iterate_labels(sample: Sample) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the key, the validity mask and the one-dimensional values of each label.

    For joints, the values are the visibility flags of all joints, labelled or not. For maps, they
    are the class ids or the depths in metres of the valid pixels or cells.
    """
    if sample.people is not None:
        states = sample.people.keypoints[..., 2].long()
        yield "keypoints", states > 0, states.flatten()
        return
    for name, label in sample.labels.items():
        valid = sample.valid[name]
        if sample.rig is not None:  # classes overlap: a cell counts once for each of its classes
            yield name, valid, (label > 0.5)[:, valid].nonzero()[:, 0]
        else:
            yield name, valid, label.reshape(valid.shape)[valid]


def _pad(counts: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(counts, (0, size - len(counts)))
