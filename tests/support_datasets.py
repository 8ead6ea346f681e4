"""Write data sets in their published layouts, a few small images each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support_labels import HEIGHT, WIDTH, box, write_coco, write_folder

CITYSCAPES_SCALE = 8
PEOPLE_HEIGHT, PEOPLE_WIDTH = 30, 40


def write_ade20k(
    root: Path, values: np.ndarray, split: str = "training", name: str = "ADE_1"
) -> Path:
    """Write one image with its annotation in the layout of ADE20K's challenge; return ``root``."""
    for part in ("images", "annotations"):
        (root / part / split).mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    Image.new("RGB", (width, height), (9, 8, 7)).save(root / "images" / split / f"{name}.jpg")
    Image.fromarray(values).save(root / "annotations" / split / f"{name}.png")
    return root


def write_ade20k_full(root: Path, numbers: np.ndarray) -> Path:
    """Write one image of the full ADE20K with class numbers ``h w``; return the image's path."""
    folder = root / "training" / "home_or_hotel" / "hall"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ADE_train_00000001.jpg"
    Image.new("RGB", numbers.shape[::-1], (9, 8, 7)).save(path)
    # the last digit of red has no meaning; blue numbers the instances of one class
    channels = [numbers // 256 * 10 + 7, numbers % 256, np.full_like(numbers, 3)]
    segments = np.stack(channels, axis=-1).astype(np.uint8)
    Image.fromarray(segments).save(path.with_name(f"{path.stem}_seg.png"))
    return path


def enlarge(numbers: np.ndarray) -> np.ndarray:
    """Return an array in which every element became a square of 8 x 8 pixels."""
    return np.kron(numbers, np.ones((CITYSCAPES_SCALE, CITYSCAPES_SCALE))).astype(np.uint8)


def write_cityscapes(
    root: Path, numbers: np.ndarray, kind: str = "labelIds", city: str = "ulm"
) -> Path:
    """Write one image of Cityscapes and its label, enlarged; return the label's path."""
    numbers = enlarge(numbers)
    name = f"{city}_000000_000019"
    image = root / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png"
    label = root / "gtFine" / "train" / city / f"{name}_gtFine_{kind}.png"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", numbers.shape[::-1], (9, 8, 7)).save(image)
    Image.fromarray(numbers).save(label)
    return label


def write_mapillary(root: Path, numbers: np.ndarray) -> Path:
    """Write one image of Mapillary Vistas and its label, enlarged; return the label's path."""
    numbers = enlarge(numbers)
    for part in ("images", "labels"):
        (root / "training" / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", numbers.shape[::-1]).save(root / "training" / "images" / "a.jpg")
    label = root / "training" / "labels" / "a.png"
    Image.fromarray(numbers).save(label)
    return label


def write_captions(path: Path, captions: dict[str, str], dataset: str = "rooms-train") -> Path:
    """Write a caption file with captions by sample id."""
    path.write_text(json.dumps({"data": dataset, "captions": captions}))
    return path


def write_labelled_images(root: Path, labels: list[np.ndarray]) -> tuple[Path, Path]:
    """Write a random image for every label map; return the two folders."""
    images, masks = root / "images", root / "labels"
    images.mkdir()
    masks.mkdir()
    for number, label in enumerate(labels):
        image = np.random.default_rng(number).integers(0, 255, (*label.shape[:2], 3), np.uint8)
        Image.fromarray(image).save(images / f"{number}.png")
        Image.fromarray(label).save(masks / f"{number}.png")
    return images, masks


def write_coco_with_boxes(root: Path, *, boxed: tuple[int, ...] = (3, 8)) -> tuple[Path, Path]:
    """Write images and COCO instances; the categories in ``boxed`` have boxes but no outlines.

    Returns:
        Folder of the images, and the JSON file.
    """
    images, _ = write_folder(root, None)
    file = write_coco(root / "boxes.json")
    data = json.loads(file.read_text())
    for annotation in data["annotations"]:
        if annotation["category_id"] in boxed:
            number = annotation["image_id"] - 7
            top, bottom, left, right = box(number)
            if annotation["category_id"] == 3:
                top, bottom, left, right = HEIGHT // 2 + number, HEIGHT, 0, WIDTH
            annotation["bbox"] = [left, top, right - left, bottom - top]
            del annotation["segmentation"]
    file.write_text(json.dumps(data))
    return images, file


def person_annotation(number: int, image: int, **changes: Any) -> dict[str, Any]:
    """Return the COCO annotation of a person with 17 visible joints."""
    joints = [[5 + i, 6 + i % 7, 2] for i in range(17)]
    row = {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [4.0, 5.0, 20.0, 10.0],
        "area": 120.0,
        "iscrowd": 0,
        "keypoints": [x for joint in joints for x in joint],
        "num_keypoints": 17,
    }
    return row | changes


def write_people(folder: Path, annotations: list[dict[str, Any]] | None = None) -> Path:
    """Write three images of COCO keypoints; return the annotation file.

    By default the first image has two people and a crowd, the second a person without joints, and
    the third no people.
    """
    rows = annotations
    if rows is None:
        no_joints = [0] * 51
        rows = [
            person_annotation(1, 139),
            person_annotation(2, 139, bbox=[10.5, 2.0, 12.0, 25.0]),
            person_annotation(3, 139, iscrowd=1, keypoints=no_joints, bbox=[0, 0, 40, 30]),
            person_annotation(4, 285, keypoints=no_joints),
        ]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "val2017").mkdir(exist_ok=True)
    images = []
    for number in (139, 285, 632):
        name = f"{number:012d}.jpg"
        pixels = np.full((PEOPLE_HEIGHT, PEOPLE_WIDTH, 3), number % 256, np.uint8)
        Image.fromarray(pixels).save(folder / "val2017" / name)
        size = {"width": PEOPLE_WIDTH, "height": PEOPLE_HEIGHT}
        images.append({"id": number, "file_name": name, **size})
    path = folder / "annotations" / "person_keypoints_val2017.json"
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    return path


def person_detection(
    image: Any, score: float, *box_xywh: float, category: int = 1
) -> dict[str, Any]:
    """Return a detection in COCO's result format."""
    return {"image_id": image, "category_id": category, "bbox": list(box_xywh), "score": score}


def write_detections(folder: Path, rows: Any) -> Path:
    """Write detections as JSON; return the file."""
    path = folder / "boxes.json"
    path.write_text(json.dumps(rows))
    return path
