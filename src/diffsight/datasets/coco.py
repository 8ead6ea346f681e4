"""Labels of many images in one JSON file of COCO: instances with their segmentations."""

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
    """Return the instances in a file as class maps.

    Class ids are those of the categories, or one more where a category has 0, the id of the
    background. Instances of a category ``background`` are background, pixels of a category ``no
    label`` have no label. Later instances of an image cover earlier ones; crowds count as others
    do. An instance without an outline is a box (``types.Boxes``). An image without an instance is
    not labelled.

    Raises:
        InputError: if the file holds no instances of COCO.
    """
    data = read_json(path)
    try:
        names = {one["id"]: clean_name(str(one["name"])) for one in data["categories"]}
        classes, class_of = _class_ids(names)
        images = {one["id"]: one for one in data["images"]}
        shapes: dict[Any, list[Shape]] = defaultdict(list)
        boxes: dict[Any, list[Box]] = defaultdict(list)
        count = 0  # of annotations without an outline or a box
        for one in data["annotations"]:
            if (category := one["category_id"]) not in class_of:
                raise InputError(f"{path}: category {category} has no name: export it again")
            number = one["image_id"]
            if one.get("segmentation"):
                shapes[number].append(Shape(class_of[category], one["segmentation"]))
            elif one.get("bbox") and class_of[category] not in RESERVED.values():
                edges = _edges(path, one["bbox"], images[number])
                boxes[number].append(Box(class_of[category], edges))
            else:
                count += 1
        numbers = dict.fromkeys([*shapes, *boxes])
        maps = {
            name_of(Path(images[number]["file_name"])): ShapeMap(
                path, _hw(path, images[number]), shapes[number], boxes[number]
            )
            for number in numbers
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: no instances of COCO ({type(error).__name__}: {error}): give a JSON file "
            "with images, categories and annotations"
        ) from None
    if not maps:
        raise InputError(f"{path}: no annotation: export the outlines or boxes of the objects")
    notes = []
    if some := sum(map(len, boxes.values())):
        notes.append(
            f"{path.name}: {some} boxes without an outline: the class is somewhere inside and "
            "nowhere outside"
        )
    if count:
        notes.append(f"{path.name}: {count} annotations without an outline are left out")
    if bare := len(images) - len(numbers):
        notes.append(f"{path.name}: {bare} of {len(images)} images have no annotation")
    return ShapeLabels(path, maps, classes, notes)


def _hw(path: Path, image: Mapping[str, Any]) -> tuple[int, int]:
    return check_hw(path, image["height"], image["width"])


def _edges(
    path: Path, box: Sequence[Any], image: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a box, inside the image.

    Raises:
        InputError: if there is no such part.
    """
    left, top, width, height = map(float, box)
    rows, columns = _hw(path, image)
    right, bottom = min(left + width, float(columns)), min(top + height, float(rows))
    edges = max(left, 0.0), max(top, 0.0), right, bottom
    if not (all(map(math.isfinite, edges)) and edges[0] < edges[2] and edges[1] < edges[3]):
        raise InputError(
            f"{path}: a box {list(box)} of {image['file_name']}, which has {columns} x {rows} "
            "pixels: a box is [left, top, width, height] inside the image: correct it"
        )
    return edges


def _class_ids(names: Mapping[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """Return the names of class ids, and the class id of every category."""
    own = {id: name for id, name in names.items() if name not in RESERVED}
    shift = int(min(own, default=1) < 1)
    classes = {id + shift: name for id, name in own.items()}
    return classes, {id: RESERVED.get(name, id + shift) for id, name in names.items()}
