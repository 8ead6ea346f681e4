"""Write class labels as masks, COCO JSON or labelme JSON, without changing a single pixel."""

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from diffsight.atomic import replacing
from diffsight.datasets.labelled_folder import LabelledFolder
from diffsight.datasets.labels import HIGHEST_ID, NO_CLASS
from diffsight.datasets.outlines import mask_to_outline
from diffsight.datasets.shapes import BACKGROUND, NO_LABEL
from diffsight.errors import InputError

CLASSES_FILE = "classes.txt"
NO_CLASS_COLOUR = (224, 224, 192)
UNLABELLED = -1  # class index of pixels without a label


def write_masks(folder: LabelledFolder, out: Path) -> list[Path]:
    """Write a PNG of palette indices for every image, and ``classes.txt`` with the class names.

    The indices are the class ids. If an id is above 254, they are the positions of the classes in
    the list. 255 is "no label". ``read_labelled_folder`` with the classes of ``classes.txt`` reads
    the same labels.

    Args:
        folder: labels of kind ``segmentation``.
        out: folder of the masks; each has the name of its image.

    Returns:
        Paths of the written files.

    Raises:
        InputError: if there are more than 255 classes, or a file cannot be written.
    """
    _require_classes(folder)
    if len(folder.names) > NO_CLASS:
        raise InputError(
            f"{len(folder.names)} classes, but a palette has room for {NO_CLASS}: write the labels "
            "as COCO"
        )
    ids = folder.ids if max(folder.ids) < NO_CLASS else range(len(folder.ids))
    colours = dict(zip(ids, folder.colours, strict=True))
    # the index UNLABELLED is -1, so it selects the last element
    table = np.array([*ids, NO_CLASS], np.uint8)
    files = []
    for image, indices in _class_indices(folder):
        picture = palette_picture(table[indices], colours)
        files.append((out / image).with_suffix(".png"))
        with _replacing_in_folder(files[-1]) as temporary:
            picture.save(temporary, format="PNG")
    lines = ["id, name", *(f"{i}, {n}" for i, n in zip(ids, folder.names, strict=True))]
    files.append(out / CLASSES_FILE)
    with _replacing_in_folder(files[-1]) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def palette_picture(
    ids: UInt8[np.ndarray, "h w"], colours: Mapping[int, tuple[int, int, int]]
) -> Image.Image:
    """Return a picture of palette indices: class ids, and 255 for "no label".

    Args:
        ids: class ids.
        colours: colours of the classes by id.
    """
    flat = [0] * 768
    for index, colour in {**colours, NO_CLASS: NO_CLASS_COLOUR}.items():
        flat[3 * index : 3 * index + 3] = colour
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette(flat)
    return picture


def write_coco(folder: LabelledFolder, out: Path) -> list[Path]:
    """Write a COCO JSON file with one annotation for every class of every image.

    The segmentation is a list of polygons if these are exact, else compressed run lengths (see
    ``mask_to_outline``). Pixels without a label get the category ``no label``. The class
    ``background`` has an annotation only in images that show no other class.

    Args:
        folder: labels of kind ``segmentation``.
        out: file to write.

    Returns:
        Path of the written file, in a list.

    Raises:
        InputError: if the file cannot be written.
    """
    _require_classes(folder)
    category_of = _categories(folder)
    images, annotations = [], []
    for number, (image, indices) in enumerate(_class_indices(folder), start=1):
        height, width = indices.shape
        size = {"height": height, "width": width}
        images.append({"id": number, "file_name": image.as_posix(), **size})
        for name, mask in _masks(folder, indices, requires_mask=True):
            top, left, bottom, right = _box(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_of[name],
                    "segmentation": mask_to_outline(mask),
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
    with _replacing_in_folder(out) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return [out]


def write_labelme(folder: LabelledFolder, out: Path, images: Path) -> list[Path]:
    """Write a labelme JSON file for every image, with a shape of type ``mask`` for every class.

    Pixels without a label get a shape ``no label``. The class ``background`` has no shape.

    Args:
        folder: labels of kind ``segmentation``.
        out: folder of the JSON files; each has the name of its image.
        images: folder of the images, to which the files refer.

    Returns:
        Paths of the written files.

    Raises:
        InputError: if a file cannot be written.
    """
    _require_classes(folder)
    files = []
    for image, indices in _class_indices(folder):
        height, width = indices.shape
        file = (out / image).with_suffix(".json")
        masks = _masks(folder, indices, requires_mask=False)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_labelme_shape(name, mask) for name, mask in masks],
            "imagePath": _relative(images / image, file.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        with _replacing_in_folder(file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        files.append(file)
    return files


def _require_classes(folder: LabelledFolder) -> None:
    """Raise an error for labels that are not classes, and for a class with a reserved name.

    Raises:
        InputError: if the labels cannot be written.
    """
    if folder.form.kind != "segmentation":
        raise InputError(
            f"labels of kind {folder.form.kind} cannot be written: give labels of kind segmentation"
        )
    if NO_LABEL in folder.names:
        raise InputError(
            f"a class is called {NO_LABEL!r}, which is for pixels without a label: rename the class"
        )
    assert len(folder.images) == len(folder)


def _class_indices(folder: LabelledFolder) -> list[tuple[Path, Int[np.ndarray, "h w"]]]:
    """Return the images ordered by name, each with the class index of every pixel.

    The index is the position of the class in ``folder.names``, or ``UNLABELLED``.
    """
    rows = []
    for image, sample in zip(folder.images, folder.samples, strict=True):
        label, valid = sample.labels[folder.label].numpy(), sample.valid[folder.label].numpy()
        rows.append((image, np.where(valid, label, UNLABELLED)))
    return sorted(rows, key=lambda row: row[0].as_posix())


def _masks(
    folder: LabelledFolder, indices: Int[np.ndarray, "h w"], *, requires_mask: bool
) -> list[tuple[str, Bool[np.ndarray, "h w"]]]:
    """Return the name and the mask of each class that is written for an image.

    The background is left out, and pixels without a label are the class ``no label``.

    Args:
        folder: labels with the names of the classes.
        indices: class index of every pixel.
        requires_mask: whether to return the mask of the background if there is no other class.
    """
    names = (*folder.names, NO_LABEL)
    masks = [(names[index], indices == index) for index in np.unique(indices).tolist()]
    shown = [(name, mask) for name, mask in masks if name != BACKGROUND]
    has_class = any(name != NO_LABEL for name, _ in shown)
    return shown if has_class or not requires_mask else masks


def _categories(folder: LabelledFolder) -> dict[str, int]:
    """Return the COCO category id of every class name.

    It is the class id. If a class id is not a valid category id, all classes are numbered from 1.
    The two reserved names get the ids after the highest one.
    """
    pairs = zip(folder.names, folder.ids, strict=True)
    category_of = {name: id for name, id in pairs if name != BACKGROUND}
    if not all(0 < id <= HIGHEST_ID for id in category_of.values()):
        category_of = {name: number for number, name in enumerate(category_of, start=1)}
    highest = max(category_of.values(), default=0)
    return {**category_of, BACKGROUND: highest + 1, NO_LABEL: highest + 2}


def _labelme_shape(name: str, mask: Bool[np.ndarray, "h w"]) -> Mapping[str, Any]:
    """Return a labelme shape of type ``mask``, which stores the part inside the bounding box."""
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
    """Return top, left, bottom and right of a mask; bottom and right are exclusive."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _relative(image: Path, folder: Path) -> str:
    """Return the path of an image relative to a folder."""
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # the image is on another drive
        return image.name


def _replacing_in_folder(file: Path) -> Any:
    """Create the folder of a file and return ``replacing(file)``.

    Raises:
        InputError: if the folder cannot be created.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{file.parent}: cannot be made ({error.strerror}): choose another --out"
        ) from error
    return replacing(file)
