"""Write small labelled images in the file formats of users and annotation tools."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH, COUNT = 60, 90, 3
ORIENTATION = 0x0112
Writer = Callable[[np.ndarray, Path], object]


def ids(number: int) -> np.ndarray:
    """Return the class ids of image ``number``: 0 (above), 1 (below) and 2 (in a box)."""
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes[HEIGHT // 2 + number :] = 1
    top, bottom, left, right = box(number)
    classes[top:bottom, left:right] = 2
    return classes


def box(number: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of class 2 in image ``number``."""
    return 12, 40, 10 + 9 * number, 40 + 9 * number


def photograph(number: int) -> Image.Image:
    """Return image ``number``: one colour for each class, with noise."""
    colours = np.array([[90, 150, 230], [60, 130, 50], [160, 80, 60]])[ids(number)]
    noise = np.random.default_rng(number).normal(0, 9, colours.shape)
    return Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8))


def write_folder(
    root: Path, write_label: Writer | None, names: tuple[str, ...] = ("p0", "p1", "p2")
) -> tuple[Path, Path]:
    """Write images, and their labels by ``write_label(class ids, path without suffix)``.

    Returns:
        The folders of the images and of the labels.
    """
    images, labels = root / "images", root / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        photograph(number).save(images / f"{name}.jpg", quality=95)
        if write_label is not None:
            write_label(ids(number), labels / name)
    return images, labels


def write_png(array: np.ndarray, path: Path, **options: Any) -> None:
    """Write an array as PNG."""
    Image.fromarray(array).save(f"{path}.png", **options)


def write_shuffled_palette(classes: np.ndarray, path: Path) -> None:
    """Write a palette mask; colours are equal in all files, but the indices of ``p1`` differ."""
    order = np.array([0, 1, 2] if path.name in ("p0", "p2") else [0, 2, 1], np.uint8)
    image = Image.fromarray(order[classes], mode="P")
    colours = np.zeros((256, 3), np.uint8)
    colours[order] = [(0, 0, 0), (0, 200, 0), (200, 0, 0)]
    image.putpalette(colours.flatten().tolist())
    image.save(f"{path}.png")


def write_smoothed(array: np.ndarray, path: Path) -> None:
    """Write a mask that is scaled down and up again, so that its borders have other values."""
    small = Image.fromarray(array).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BILINEAR)
    small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(f"{path}.png")


def polygons(number: int) -> dict[str, list[list[float]]]:
    """Return the polygons of the classes in image ``number``; later ones cover earlier ones."""
    top, bottom, left, right = box(number)
    low = HEIGHT // 2 + number
    return {
        "grass": [[0, low], [WIDTH, low], [WIDTH, HEIGHT], [0, HEIGHT]],
        "house": [[left, top], [right, top], [right, bottom], [left, bottom]],
    }


def write_labelme(labels: Path, number: int) -> None:
    """Write the labelme file of image ``number``."""
    shapes = [
        {"label": name, "points": corners, "shape_type": "polygon"}
        for name, corners in polygons(number).items()
    ]
    content = {"version": "5.4", "shapes": shapes, "imagePath": f"p{number}.jpg"}
    content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (labels / f"p{number}.json").write_text(json.dumps(content))


def write_coco(path: Path, *, house: Callable[[int], Any] | None = None) -> Path:
    """Write COCO instances of all images; ``house`` may return another segmentation of class 2."""
    images, annotations = [], []
    for number in range(COUNT):
        shape = {"id": number + 7, "file_name": f"photos/p{number}.jpg"}
        images.append({**shape, "height": HEIGHT, "width": WIDTH})
        for category, corners in zip((3, 8), polygons(number).values(), strict=True):
            outline: Any = [[float(v) for corner in corners for v in corner]]
            if category == 8 and house is not None:
                outline = house(number)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number + 7,
                    "category_id": category,
                    "segmentation": outline,
                    "iscrowd": int(isinstance(outline, dict)),
                }
            )
    categories = [{"id": 3, "name": "grass"}, {"id": 8, "name": "house"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def change_a_pixel_byte(path: Path) -> None:
    """Change a byte of a PNG so that Pillow still decodes it, but to other pixels."""
    data, before = path.read_bytes(), np.array(Image.open(path))
    start = data.index(b"IDAT") + 4
    for position in range(start + 2, len(data) - 16):
        changed = bytearray(data)
        changed[position] ^= 4
        path.write_bytes(bytes(changed))
        try:
            if (np.array(Image.open(path)) != before).any():
                return
        except (OSError, SyntaxError):
            continue
    raise AssertionError("no change of a byte gives other pixels")
