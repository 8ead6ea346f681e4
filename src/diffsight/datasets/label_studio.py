"""Read brush labels of Label Studio, which exports one mask per class and labelled image.

Label Studio calls an image that is to be labelled a task. Names of masks contain the task's number.
"""

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
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")  # Label Studio adds it to names of uploaded files


class BrushMasks(AbstractLabelSource):
    """Class maps that are merged from the masks of single classes.

    Pixels without a mask are background, with id 0.

    Args:
        path: folder of the masks.
        masks: class ids and mask files by the name of the image; later masks cover earlier ones.
        classes: class names by id, without the background.
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
        """Names of the labelled images, as ``name_of`` returns them."""
        return self._masks.keys()

    def file(self, name: str) -> Path:
        """Return the path of the first mask of an image."""
        return self._masks[name][0][1]

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the class map of an image; ``hw`` is not used.

        Raises:
            InputError: if a mask cannot be read, or the masks differ in size.
        """
        ids: torch.Tensor | None = None
        for number, file in self._masks[name]:
            mask = read_label(file, LabelFormat("segmentation", invalid=-1)).class_ids
            ids = torch.zeros_like(mask) if ids is None else ids
            if mask.shape != ids.shape:
                raise InputError(
                    f"{file}: has another size than the other masks of its image: export them again"
                )
            ids = torch.where(mask > 0, number, ids)
        assert ids is not None
        label = Label(ids[None].float(), torch.ones_like(ids, dtype=torch.bool))
        return label if form.invalid is None else label.without(form.invalid)

    def digest(self, name: str) -> str:
        """Return a text of the class ids of an image's masks and the hashes of their files."""
        return "".join(f"{number}{content_hash(file)}" for number, file in self._masks[name])


def is_brush_mask(file: Path) -> bool:
    """Return whether a file has the name of a mask that was exported by Label Studio."""
    return _NAME.fullmatch(file.stem) is not None


def read_label_studio(folder: Path, masks: Iterable[Path], tasks: Path | None) -> BrushMasks:
    """Return the class maps of the images, merged from exported masks.

    Args:
        folder: folder of the masks.
        masks: mask files with names like ``task-1-annotation-9-by-1-tag-grass-0.png``.
        tasks: JSON export of the same tasks, which contains the names of their images; None if it
            is missing.

    Raises:
        InputError: if ``tasks`` is None, or has no entry for the task of a mask.
    """
    rows = []
    for file in masks:
        match = _NAME.fullmatch(file.stem)
        assert match is not None
        task, annotation, tag, number = match.groups()
        rows.append((int(task), int(annotation), int(number), clean_name(tag), file))
    if tasks is None:
        raise InputError(
            f"{folder}: {len(rows)} masks of Label Studio, whose names contain the task but not "
            f"the image (first: {rows[0][-1].name}): export the tasks as JSON too and put that "
            "file into the folder, or export as COCO and give --labels result.json"
        )
    images = _read_image_names(tasks)
    if missing := sorted({row[0] for row in rows} - images.keys()):
        raise InputError(f"{tasks}: does not contain task {missing[0]}: export the tasks again")
    ids = {tag: i for i, tag in enumerate(sorted({row[3] for row in rows}), start=1)}
    merged: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for task, _, _, tag, file in sorted(rows):
        merged[images[task]].append((ids[tag], file))
    return BrushMasks(folder, merged, {number: tag for tag, number in ids.items()})


def _read_image_names(tasks: Path) -> dict[int, str]:
    """Return the names of the images by the ids of the tasks.

    Raises:
        InputError: if the file is not an export of Label Studio.
    """
    data: Any = read_json(tasks)
    try:
        return {int(task["id"]): _image_name(task) for task in data}
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{tasks}: not an export of Label Studio ({type(error).__name__}): export the tasks as "
            "JSON"
        ) from None


def _image_name(task: Mapping[str, Any]) -> str:
    """Return the name of a task's image, without the prefix that an upload adds."""
    data = task.get("data", task)  # the format JSON-MIN has the fields in the task itself
    value = data["image"] if "image" in data else next(v for v in data.values() if "/" in str(v))
    value = unquote(str(value)).replace("\\", "/")  # a path on Windows
    file = PurePosixPath(value.partition("?d=")[2] or value)
    return name_of(Path(_UPLOAD_PREFIX.sub("", file.name, count=1)))
