"""Brush labels of Label Studio: a mask for every class of every task."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import torch

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.files import read_json
from diffsight.datasets.label_source import AbstractLabelSource
from diffsight.datasets.labels import Label, LabelFormat, read_label
from diffsight.datasets.pairs import content_hash, name_of
from diffsight.datasets.shapes import BACKGROUND
from diffsight.errors import InputError
from diffsight.label_maps import clean_name

_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-.+?-tag-(.+)-(\d+)", re.IGNORECASE)
_UPLOADED = re.compile(r"[0-9a-f]{8}-")  # before the names of uploaded files


class BrushMasks(AbstractLabelSource):
    """Masks of single classes, merged; pixels without one are background, id 0.

    Args:
        path: folder.
        masks: class id and file, by the names of the images; later ones cover earlier ones.
        classes: ids and names, without the background.
    """

    def __init__(
        self,
        path: Path,
        masks: Mapping[str, Sequence[tuple[int, Path]]],
        classes: Mapping[int, str],
    ) -> None:
        self.path = path
        self.classes = ClassList({0: BACKGROUND, **classes}, "id")
        self._masks = dict(masks)

    @property
    def names(self) -> Collection[str]:
        """Names in the form of ``files_by_name``."""
        return self._masks.keys()

    def file(self, name: str) -> Path:
        """Return the first of the masks."""
        return self._masks[name][0][1]

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the class of every pixel.

        Raises:
            InputError: if a mask cannot be read, or they differ in size.
        """
        ids: torch.Tensor | None = None
        for number, file in self._masks[name]:
            one = read_label(file, LabelFormat("segmentation", invalid=-1)).class_ids
            ids = torch.zeros_like(one) if ids is None else ids
            if one.shape != ids.shape:
                raise InputError(f"{file}: has another size than the masks of the same image")
            ids = torch.where(one > 0, number, ids)
        assert ids is not None
        label = Label(ids[None].float(), torch.ones_like(ids, dtype=torch.bool))
        return label if form.invalid is None else label.without(form.invalid)

    def digest(self, name: str) -> str:
        """Return the hashes of the masks."""
        return "".join(f"{number}{content_hash(file)}" for number, file in self._masks[name])


def is_brush_mask(file: Path) -> bool:
    """Return whether a file has a name of Label Studio's export of masks."""
    return _NAME.fullmatch(file.stem) is not None


def read_label_studio(folder: Path, masks: Iterable[Path], tasks: Path | None) -> BrushMasks:
    """Return merged masks under the names of their images.

    Args:
        folder: of the masks.
        masks: files ``task-1-annotation-9-by-1-tag-grass-0.png``.
        tasks: the export of the same tasks as JSON, which names their images.

    Raises:
        InputError: without that file, or if a task is not in it.
    """
    rows = []
    for file in masks:
        match = _NAME.fullmatch(file.stem)
        assert match is not None
        task, annotation, tag, number = match.groups()
        rows.append((int(task), int(annotation), int(number), clean_name(tag), file))
    if tasks is None:
        raise InputError(
            f"{folder}: {len(rows)} masks of Label Studio, whose names give the task but not the "
            f"image (first: {rows[0][-1].name}): export the tasks as JSON too and put that file "
            "into the folder, or export as COCO and give --labels result.json"
        )
    images = _images(tasks)
    if missing := sorted({row[0] for row in rows} - images.keys()):
        raise InputError(f"{tasks}: has no task {missing[0]}: export the tasks of these masks")
    ids = {tag: i for i, tag in enumerate(sorted({row[3] for row in rows}), start=1)}
    merged: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for task, _, _, tag, file in sorted(rows):
        merged[images[task]].append((ids[tag], file))
    return BrushMasks(folder, merged, {number: tag for tag, number in ids.items()})


def _images(tasks: Path) -> dict[int, str]:
    """Return the names of the images by task."""
    data: Any = read_json(tasks)
    try:
        return {int(task["id"]): _image_name(task) for task in data}
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{tasks}: no tasks of Label Studio ({type(error).__name__}): export them as JSON"
        ) from None


def _image_name(task: Mapping[str, Any]) -> str:
    """Return the name of a task's image, without the letters that an upload puts before it."""
    data = task.get("data", task)  # JSON-MIN has the fields in the task
    value = data["image"] if "image" in data else next(v for v in data.values() if "/" in str(v))
    file = PurePosixPath(unquote(str(value)).partition("?d=")[2] or unquote(str(value)))
    return name_of(Path(_UPLOADED.sub("", file.name, count=1)))
