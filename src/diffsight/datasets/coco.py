"""Read class maps from a COCO JSON file of instances with outlines or boxes."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsight.datasets.files import read_json
from diffsight.datasets.pairs import name_of
from diffsight.datasets.shapes import RESERVED, Box, Shape, ShapeLabels, ShapeMap, check_hw
from diffsight.errors import InputError
from diffsight.label_maps import clean_name


def read_coco(path: Path) -> ShapeLabels:
    """Return the instances in a COCO file as class maps.

    Class ids are the category ids. If a category has the id 0, which is that of the background, the
    class ids are one higher than the category ids. Instances of a category ``background`` are
    background, and pixels of a category ``no label`` have no label. Later instances of an image
    cover earlier ones. Crowds are treated like other instances. An instance without an outline
    becomes a box (see ``types.Boxes``). Images without instances count as not labelled. If several
    entries name one image file, their instances belong to one image.

    Args:
        path: JSON file with ``images``, ``categories`` and ``annotations``.

    Raises:
        InputError: if the file does not contain COCO instances.
    """
    data = read_json(path)
    try:
        names = {row["id"]: clean_name(str(row["name"])) for row in data["categories"]}
        classes, class_ids = _assign_class_ids(names)
        images = {image["id"]: image for image in data["images"]}
        names_by_id = _names_of_images(path, images)
        shapes: dict[str, list[Shape]] = defaultdict(list)
        boxes: dict[str, list[Box]] = defaultdict(list)
        skipped_count = 0  # annotations without an outline or a box
        for annotation in data["annotations"]:
            if (category := annotation["category_id"]) not in class_ids:
                raise InputError(
                    f"{path}: category {category} is not in its list of categories: export the "
                    "file again"
                )
            if (number := annotation["image_id"]) not in images:
                raise InputError(
                    f"{path}: image {number} is not in its list of images: export the file again"
                )
            name = names_by_id[number]
            if annotation.get("segmentation"):
                shapes[name].append(Shape(class_ids[category], annotation["segmentation"]))
            elif annotation.get("bbox") and class_ids[category] not in RESERVED.values():
                edges = _box_edges(path, annotation["bbox"], images[number])
                boxes[name].append(Box(class_ids[category], edges))
            else:
                skipped_count += 1
        by_name = {name: images[number] for number, name in names_by_id.items()}
        maps = {
            name: ShapeMap(path, _image_hw(path, by_name[name]), shapes[name], boxes[name])
            for name in dict.fromkeys([*shapes, *boxes])
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a COCO instances file ({type(error).__name__}: {error}): give a JSON "
            "file with images, categories and annotations"
        ) from None
    if not maps:
        raise InputError(f"{path}: contains no annotations: export outlines or boxes of objects")
    box_count = sum(map(len, boxes.values()))
    unlabelled_count = len(by_name) - len(maps)
    notes = _describe_gaps(path.name, box_count, skipped_count, unlabelled_count, len(by_name))
    notes += _describe_repetitions(path.name, len(images) - len(by_name))
    return ShapeLabels(path, maps, classes, notes)


def _names_of_images(path: Path, images: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """Return the name of each image, by which its label is matched, by the id of its entry.

    Args:
        path: file of the annotations, for messages.
        images: entries of the images by id.

    Raises:
        InputError: if two entries with one name have different sizes, or different file names.
    """
    names: dict[Any, str] = {}
    first: dict[str, tuple[str, Any, Any]] = {}
    for number, image in images.items():
        file = str(image["file_name"]).replace("\\", "/")  # as written by programs on Windows
        names[number] = name = name_of(Path(file))
        entry = (file.casefold(), image.get("height"), image.get("width"))
        if (other := first.setdefault(name, entry)) != entry:
            raise InputError(
                f"{path}: has two images named {name!r} that differ: {other[0]} of {other[2]} x "
                f"{other[1]} pixels, and {entry[0]} of {entry[2]} x {entry[1]}: rename one"
            )
    return names


def _describe_gaps(
    name: str, box_count: int, skipped_count: int, unlabelled_count: int, image_count: int
) -> list[str]:
    """Return notes for the user about objects and images without an outline.

    Args:
        name: name of the file.
        box_count: number of objects with a box but no outline.
        skipped_count: number of annotations without an outline or a box.
        unlabelled_count: number of images without annotations.
        image_count: number of all images.
    """
    notes = []
    if box_count:
        notes.append(
            f"{name}: {box_count} objects have a box but no outline: some pixels inside the "
            "box belong to the class, none outside"
        )
    if skipped_count:
        notes.append(f"{name}: {skipped_count} annotations without an outline or a box are skipped")
    if unlabelled_count:
        notes.append(f"{name}: {unlabelled_count} of {image_count} images have no annotation")
    return notes


def _describe_repetitions(name: str, count: int) -> list[str]:
    """Return a note about ``count`` entries of images that have an earlier entry, or no note."""
    if not count:
        return []
    return [f"{name}: {count} entries name the file of another entry: their annotations are merged"]


def _image_hw(path: Path, image: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width in pixels from an image's entry in the file."""
    return check_hw(path, image["height"], image["width"])


def _box_edges(
    path: Path, box: Sequence[Any], image: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom in pixels of a box, clipped to the image.

    Args:
        path: file of the annotations, for messages.
        box: left, top, width and height in pixels.
        image: entry of the image in the file.

    Raises:
        InputError: if no part of the box is inside the image.
    """
    left, top, width, height = map(float, box)
    rows, columns = _image_hw(path, image)
    right, bottom = min(left + width, float(columns)), min(top + height, float(rows))
    edges = max(left, 0.0), max(top, 0.0), right, bottom
    if not (all(map(math.isfinite, edges)) and edges[0] < edges[2] and edges[1] < edges[3]):
        raise InputError(
            f"{path}: the box {list(box)} is outside {image['file_name']} ({columns} x {rows} "
            "pixels) or empty: write it as [left, top, width, height]"
        )
    return edges


def _assign_class_ids(names: Mapping[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """Return class names by class id, and class ids by category id."""
    objects = {id: name for id, name in names.items() if name not in RESERVED}
    shift = int(min(objects, default=1) < 1)
    classes = {id + shift: name for id, name in objects.items()}
    return classes, {id: RESERVED.get(name, id + shift) for id, name in names.items()}
