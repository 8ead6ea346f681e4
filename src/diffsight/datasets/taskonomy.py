"""Taskonomy: one of its 22 tasks as a data set."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.labelled_folder import LABEL_KEYS
from diffsight.datasets.taskonomy_files import Layout, TaskonomyFiles, buildings_of
from diffsight.datasets.taskonomy_labels import (
    CLASSES,
    LabelMap,
    Preset,
    Rule,
    class_map,
    class_tasks,
    dense_map,
    rules,
    scored_class_map,
    scored_dense_map,
)
from diffsight.errors import InputError


class Taskonomy(AbstractDataset):
    """Images with the labels of one task, in the same order on every machine.

    The label is ``normals`` for the task ``normal``, ``semantic`` for class ids, and ``depth_m`` in
    metres for the two depth tasks of preset ``native``. It is ``values`` for all other tasks, and
    for the depth tasks of the other presets.

    Args:
        root: folder of the data set.
        task: one of the nine dense tasks (``depth_zbuffer``, ``normal`` ...),
            ``segment_semantic/CLASS`` for one of twelve classes (only images that show the class),
            or ``segment_semantic`` for all of them.
        split: ``train`` (25 buildings of the tiny split), ``val`` or ``test`` (five each), or the
            name of one building.
        preset: how label files are decoded (see ``taskonomy_labels``). ``native`` gives plain
            units, such as metres for depth; ``vtm`` and ``clean`` give channels in [0, 1], as in
            the published tables.
        layout: layout of the folders; ``auto`` detects it.
        max_images: largest number of images; None uses all.
        scored: return the labels for evaluation, not those for training. Their size is 256 x 256
            for ``vtm`` and ``clean``, whatever the size of the image. ``vtm`` resizes a label
            before it masks it, as in the published tables; ``clean`` leaves out pixels that are
            interpolated from invalid ones.
        files: files below ``root``, for several data sets that share them; None lists the folders
            again.

    Raises:
        InputError: if no layout fits, there are no images or no labels, or an argument is unknown.
    """

    unrecorded = frozenset({"files"})

    def __init__(
        self,
        *,
        root: str | Path,
        task: str,
        split: str = "train",
        preset: Preset = "native",
        layout: Layout = "auto",
        max_images: int | None = None,
        scored: bool = False,
        files: TaskonomyFiles | None = None,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise InputError(f"max_images {max_images}: use at least one image")
        require_task(task, preset)
        self.files = files or TaskonomyFiles(root, layout)
        self.name = f"taskonomy-{split}-{task}"
        self.task = task
        self.preset: Preset = preset
        self.max_images = max_images
        self.scored = scored
        self._classes: Sequence[str] = class_tasks().get(task, ())
        rule = self._rule
        self.label = LABEL_KEYS[rule.kind] if rule else "semantic"
        self.class_names = {} if rule else {"semantic": tuple(self._classes)}
        buildings = buildings_of(split)
        self._images = self.files.images(buildings)
        if not self._images:
            raise InputError(
                f"{root}: holds no images of {split}: download them, or name another split"
            )
        if absent := find_missing_folder(self.files, task, preset, buildings):
            raise InputError(
                f"{root}: no folder {absent} of {split}: download it into the same folder as rgb"
            )

    def __len__(self) -> int:
        """Return the number of images.

        For the task of one class, the first call reads the label files, which takes minutes.
        """
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return the image at ``index`` with its label.

        Raises:
            InputError: if a file is damaged or no pixel has a label; the message names the file.
        """
        id = self.ids[index]
        domains = label_domains(self.task, self.preset)
        image, *maps = (self.files.read(domain, id) for domain in ("rgb", *domains))
        path = self.files.path(domains[0], id)
        sizes = [pixels.shape[:2] for pixels in (image, *maps)]
        if len(set(sizes)) > 1:
            raise InputError(f"{path}: image and labels differ in size: {sizes}")
        value, valid = self._training_label(maps)
        if not valid.any():
            raise InputError(f"{path}: no pixel has a label")
        if self.scored:
            value, valid = self._scored_label(maps)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return Sample(id, pixels, {self.label: value}, {self.label: valid})

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the images."""
        return tuple(itertools.islice(self._iter_ids(), self.max_images))

    @property
    def _rule(self) -> Rule | None:
        """Rule that decodes the labels of a dense task; None for tasks with classes.

        It is not stored in an attribute, because its functions cannot be pickled.
        """
        return rules(self.preset).get(self.task)

    def _iter_ids(self) -> Iterator[str]:
        """Iterate over the ids of all images; for the task of one class, of those that show it."""
        if self.label != "semantic" or len(self._classes) > 2:
            return iter(self._images)
        number = CLASSES[self._classes[1]]
        return (id for id in self._images if number in self.files.classes(id))

    def _training_label(self, maps: Sequence[np.ndarray]) -> LabelMap:
        if self._rule is None:
            return class_map(self._classes, maps[0])
        return dense_map(self._rule, maps[0], maps[1] if len(maps) > 1 else None)

    def _scored_label(self, maps: Sequence[np.ndarray]) -> LabelMap:
        if (rule := self._rule) is None:
            return scored_class_map(self._classes, self.preset, maps[0])
        depth = maps[1] if len(maps) > 1 else None
        return scored_dense_map(rule, self.preset, maps[0], depth)


def task_names(preset: Preset) -> tuple[str, ...]:
    """Return the names of the 22 tasks, which are the same for every preset."""
    return (*rules(preset), *class_tasks())


def require_task(task: str, preset: Preset) -> None:
    """Raise an error for a task that Taskonomy does not have.

    Raises:
        InputError: if the task is unknown; the message lists all tasks.
    """
    if task not in task_names(preset):
        raise InputError(f"unknown Taskonomy task {task!r}: choose {', '.join(task_names(preset))}")


def label_domains(task: str, preset: Preset) -> tuple[str, ...]:
    """Return the domains (kinds of files) that a task's labels are made of, the main one first.

    The second one, if any, is the Euclidean depth, which masks pixels without depth.
    """
    rule = rules(preset).get(task)
    if rule is None:
        return ("segment_semantic",)
    return (rule.domain, "depth_euclidean") if rule.by_depth else (rule.domain,)


def find_missing_folder(
    files: TaskonomyFiles, task: str, preset: Preset, buildings: Sequence[str]
) -> str | None:
    """Return a domain that a task needs and of which no building has a folder, or None.

    Args:
        files: files of the data set.
        task: name of the task.
        preset: preset of its labels.
        buildings: names of the buildings in the split.
    """
    needed = sorted(set(label_domains(task, preset)))
    return next((domain for domain in needed if not files.has_folder(domain, buildings)), None)
