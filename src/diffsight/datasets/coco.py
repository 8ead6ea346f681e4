"""Labels of many images in one JSON file of COCO: instances with their segmentations."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsight.datasets.files import read_json
from diffsight.datasets.pairs import name_of
from diffsight.datasets.shapes import RESERVED, Shape, ShapeLabels, ShapeMap, check_hw
from diffsight.errors import InputError
from diffsight.label_maps import clean_name


def read_coco(path: Path) -> ShapeLabels:
    """Return the instances in a file as class maps.

    Class ids are those of the categories, or one more where a category has 0, the id of the
    background. Instances of a category ``background`` are background, pixels of a category ``no
    label`` have no label. Later instances of an image cover earlier ones; crowds count as others
    do. An image without an instance is not labelled.

    Raises:
        InputError: if the file holds no instances of COCO.
    """
    data = read_json(path)
    try:
        names = {one["id"]: clean_name(str(one["name"])) for one in data["categories"]}
        classes, class_of = _class_ids(names)
        images = {one["id"]: one for one in data["images"]}
        shapes: dict[Any, list[Shape]] = defaultdict(list)
        boxes = 0
        for one in data["annotations"]:
            if not one.get("segmentation"):
                boxes += 1
                continue
            if (category := one["category_id"]) not in class_of:
                raise InputError(f"{path}: category {category} has no name: export it again")
            shapes[one["image_id"]].append(Shape(class_of[category], one["segmentation"]))
        maps = {
            name_of(Path(images[number]["file_name"])): ShapeMap(
                path, check_hw(path, images[number]["height"], images[number]["width"]), row
            )
            for number, row in shapes.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: no instances of COCO ({type(error).__name__}: {error}): give a JSON file "
            "with images, categories and annotations"
        ) from None
    if not maps:
        kind = f"{boxes} boxes, but no polygon or mask" if boxes else "no annotation"
        raise InputError(f"{path}: {kind}: export the outlines of the objects")
    notes = []
    if boxes:
        notes.append(f"{path.name}: {boxes} annotations without an outline are left out")
    if bare := len(images) - len(shapes):
        notes.append(f"{path.name}: {bare} of {len(images)} images have no annotation")
    return ShapeLabels(path, maps, classes, notes)


def _class_ids(names: Mapping[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """Return the names of class ids, and the class id of every category."""
    own = {id: name for id, name in names.items() if name not in RESERVED}
    shift = int(min(own, default=1) < 1)
    classes = {id + shift: name for id, name in own.items()}
    return classes, {id: RESERVED.get(name, id + shift) for id, name in names.items()}
