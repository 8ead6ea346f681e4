"""Write class labels as masks, COCO JSON or labelme JSON. Read again, no pixel differs."""

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from diffsight.atomic import replacing
from diffsight.datasets.labelled_folder import LabelledFolder
from diffsight.datasets.labels import HIGHEST_ID, NO_CLASS
from diffsight.datasets.outlines import outline_of
from diffsight.datasets.shapes import BACKGROUND, NO_LABEL
from diffsight.errors import InputError

CLASSES_FILE = "classes.txt"
NO_CLASS_COLOUR = (224, 224, 192)
NOTHING = -1  # number of a pixel without a label


def write_masks(folder: LabelledFolder, out: Path) -> list[Path]:
    """Write a PNG of palette indices for every image, and ``classes.txt`` with their names.

    The indices are the class ids, or the numbers of the classes where an id is above 254. 255 is
    "no label". ``read_labelled_folder`` with the classes of ``classes.txt`` is the inverse.

    Args:
        folder: of the kind ``segmentation``.
        out: folder of the masks, whose names are those of the images.

    Returns:
        The files.

    Raises:
        InputError: for more than 255 classes, or if a file cannot be written.
    """
    _check(folder)
    if len(folder.names) > NO_CLASS:
        raise InputError(
            f"{len(folder.names)} classes: indices of a palette name {NO_CLASS} at most: write "
            "them as COCO"
        )
    ids = folder.ids if max(folder.ids) < NO_CLASS else range(len(folder.ids))
    flat = [0] * 768
    rows = [*zip(ids, folder.colours, strict=True), (NO_CLASS, NO_CLASS_COLOUR)]
    for index, colour in rows:
        flat[3 * index : 3 * index + 3] = colour
    table = np.array([*ids, NO_CLASS], np.uint8)  # the last is that of NOTHING
    files = []
    for image, numbers in _numbers(folder):
        picture = Image.fromarray(table[numbers], mode="P")
        picture.putpalette(flat)
        files.append((out / image).with_suffix(".png"))
        with _writing(files[-1]) as temporary:
            picture.save(temporary, format="PNG")
    lines = ["id, name", *(f"{i}, {n}" for i, n in zip(ids, folder.names, strict=True))]
    files.append(out / CLASSES_FILE)
    with _writing(files[-1]) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def write_coco(folder: LabelledFolder, out: Path) -> list[Path]:
    """Write a JSON file of COCO with an annotation for every class of every image.

    A class of an image is a list of polygons where these are exact, else compressed run lengths
    (``outline_of``). Pixels without a label are a category ``no label``. The class ``background``
    has no annotation, but in images that show nothing else.

    Args:
        folder: of the kind ``segmentation``.
        out: file.

    Returns:
        The file.

    Raises:
        InputError: if it cannot be written.
    """
    _check(folder)
    category_of = _categories(folder)
    images, annotations = [], []
    for number, (image, numbers) in enumerate(_numbers(folder), start=1):
        height, width = numbers.shape
        about = {"id": number, "file_name": image.as_posix(), "height": height, "width": width}
        images.append(about)
        for name, mask in _masks(folder, numbers, is_background_needed=True):
            top, left, bottom, right = _box(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_of[name],
                    "segmentation": outline_of(mask),
                    "area": int(mask.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    used = {one["category_id"] for one in annotations}
    categories = [
        {"id": id, "name": name, "supercategory": ""}
        for name, id in category_of.items()
        if id in used or name not in (BACKGROUND, NO_LABEL)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with _writing(out) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return [out]


def write_labelme(folder: LabelledFolder, out: Path, images: Path) -> list[Path]:
    """Write a JSON file of labelme for every image, with a shape of type ``mask`` for every class.

    Pixels without a label are a shape ``no label``. The class ``background`` has no shape.

    Args:
        folder: of the kind ``segmentation``.
        out: folder of the files, whose names are those of the images.
        images: folder of the images, which the files refer to.

    Returns:
        The files.

    Raises:
        InputError: if a file cannot be written.
    """
    _check(folder)
    files = []
    for image, numbers in _numbers(folder):
        height, width = numbers.shape
        file = (out / image).with_suffix(".json")
        masks = _masks(folder, numbers, is_background_needed=False)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_labelme_shape(name, mask) for name, mask in masks],
            "imagePath": _relative(images / image, file.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        with _writing(file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        files.append(file)
    return files


def _check(folder: LabelledFolder) -> None:
    if folder.form.kind != "segmentation":
        raise InputError(f"labels of kind {folder.form.kind} are no classes: give classes")
    if NO_LABEL in folder.names:
        raise InputError(f"a class is called {NO_LABEL!r}, which is for pixels without a label")
    assert len(folder.images) == len(folder)


def _numbers(folder: LabelledFolder) -> list[tuple[Path, Int[np.ndarray, "h w"]]]:
    """Return images in the order of their names, with the number of the class of every pixel."""
    rows = []
    for image, sample in zip(folder.images, folder.samples, strict=True):
        label, valid = sample.labels[folder.label].numpy(), sample.valid[folder.label].numpy()
        rows.append((image, np.where(valid, label, NOTHING)))
    return sorted(rows, key=lambda row: row[0].as_posix())


def _masks(
    folder: LabelledFolder, numbers: Int[np.ndarray, "h w"], *, is_background_needed: bool
) -> list[tuple[str, Bool[np.ndarray, "h w"]]]:
    """Return the classes of an image that have an outline, by name.

    Args:
        folder: whose names the classes have.
        numbers: of the classes.
        is_background_needed: whether an image needs one outline or more.
    """
    names = (*folder.names, NO_LABEL)
    masks = [(names[number], numbers == number) for number in np.unique(numbers).tolist()]
    shown = [(name, mask) for name, mask in masks if name != BACKGROUND]
    has_class = any(name != NO_LABEL for name, _ in shown)
    return shown if has_class or not is_background_needed else masks


def _categories(folder: LabelledFolder) -> dict[str, int]:
    """Return the id of every category: that of the class, or its number where an id is none."""
    pairs = zip(folder.names, folder.ids, strict=True)
    own = {name: id for name, id in pairs if name != BACKGROUND}
    if not all(0 < id <= HIGHEST_ID for id in own.values()):
        own = {name: number for number, name in enumerate(own, start=1)}
    highest = max(own.values(), default=0)
    return {**own, BACKGROUND: highest + 1, NO_LABEL: highest + 2}


def _labelme_shape(name: str, mask: Bool[np.ndarray, "h w"]) -> Mapping[str, Any]:
    top, left, bottom, right = _box(mask)
    picture = io.BytesIO()
    part = mask[top:bottom, left:right].astype(np.uint8) * 255
    Image.fromarray(part).save(picture, format="PNG")
    return {
        "label": name,
        "points": [[left, top], [right - 1, bottom - 1]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(picture.getvalue()).decode("ascii"),
    }


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Return the first row and column of a mask, and those behind its last."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _relative(image: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # on another drive
        return image.name


def _writing(file: Path) -> Any:
    """Return ``replacing(file)``; its folder is made.

    Raises:
        InputError: if that cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{file.parent}: cannot be made ({error.strerror}): choose another --out"
        ) from error
    return replacing(file)
