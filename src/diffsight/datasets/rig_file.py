"""Read and write a JSON file that describes the cameras and the LiDAR of a vehicle at one time.

Example::

    {"cameras": [{"image": "front.jpg",
                  "intrinsics": [[1266, 0, 816], [0, 1266, 491], [0, 0, 1]],
                  "camera_to_vehicle": [[0, 0, 1, 1.7], [-1, 0, 0, 0],
                                        [0, -1, 0, 1.5], [0, 0, 0, 1]]}],
     "points": "points.npy"}

Paths are relative to the JSON file. ``intrinsics`` are in pixels. ``camera_to_vehicle`` is the pose
of the camera in the frame of the vehicle, in metres; camera axes are x right, y down, z forward.
``points`` is optional; its rows are x, y, z in metres, intensity, and age in seconds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.datasets.files import read_array, read_image, read_json
from diffsight.datasets.rig_picture import draw_rig
from diffsight.errors import InputError
from diffsight.rig import POINT_CHANNELS, Rig

RIG_FILE, POINTS_FILE = "rig.json", "points.npy"


def read_image_or_rig(
    path: Path, *, requires_rig: bool
) -> tuple[UInt8[Tensor, "3 h w"], Rig | None]:
    """Return the input image of a model, and the rig if the model reads several cameras.

    For a rig, the image shows the images of its cameras side by side.

    Args:
        path: an image file, or the JSON file of a rig.
        requires_rig: whether the model reads several cameras, not one image.

    Raises:
        InputError: if the file cannot be read, or is a rig for a model that reads one image, or an
            image for a model that reads several cameras.
    """
    is_rig = path.suffix.lower() == ".json"
    if requires_rig and not is_rig:
        raise InputError(f"{path}: the model reads several cameras: give their JSON file")
    if is_rig and not requires_rig:
        raise InputError(f"{path}: the model reads one image, not a rig: give an image file")
    return read_rig(path) if is_rig else (read_image(path), None)


def read_rig(path: Path) -> tuple[UInt8[Tensor, "3 h w"], Rig]:
    """Return a picture of the camera images side by side, and the rig as a batch of one.

    Raises:
        InputError: if a file cannot be used; the message names the file and the repair.
    """
    description = read_json(path)
    rows = description.get("cameras") if isinstance(description, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: no list of cameras: write one, as docs/predict.md shows")
    images, intrinsics, poses = [], [], []
    for number, row in enumerate(rows):
        location = f"{path}: camera {number}"
        if not isinstance(row, dict) or not isinstance(row.get("image"), str):
            raise InputError(f"{location} names no image: give its path as 'image'")
        images.append(read_image(path.parent / row["image"]))
        matrix = torch.eye(4)
        matrix[:3, :3] = _read_matrix(row, "intrinsics", 3, location)
        intrinsics.append(matrix)
        poses.append(_read_matrix(row, "camera_to_vehicle", 4, location))
    sizes = {(image.shape[2], image.shape[1]) for image in images}
    if len(sizes) > 1:
        several = ", ".join(f"{w} x {h}" for w, h in sorted(sizes))
        raise InputError(f"{path}: cameras of several sizes ({several} px): give one size")
    stack = torch.stack(images)
    identity = torch.eye(4).repeat(1, len(images), 1, 1)
    rig = Rig(
        stack[None],
        torch.stack(intrinsics)[None],
        torch.stack(poses)[None],
        identity,
        points=_read_points(path, description),
    )
    return draw_rig(rig), rig


def write_rig(rig: Rig, folder: Path) -> Path:
    """Write a rig as files that ``read_rig`` reads, and return the path of the JSON file.

    Args:
        rig: a batch of one row, before augmentation.
        folder: folder of the files; it is created if it does not exist.

    Raises:
        InputError: if the rig has several rows, or if its images or its frame were changed by
            augmentation, which the file cannot describe.
    """
    if len(rig) != 1:
        raise InputError(f"rig of {len(rig)} rows: write each row alone (see Rig.each)")
    rig = rig.to("cpu").in_bytes()
    (images,), (changes,) = rig.images, rig.image_change
    if not torch.equal(changes, torch.eye(4).expand_as(changes)):
        raise InputError("the images of the rig were scaled or cropped: write the original ones")
    if rig.vehicle_change is not None:
        raise InputError("the frame of the rig was changed: write the rig before augmentation")
    folder.mkdir(parents=True, exist_ok=True)
    cameras = []
    for number, image in enumerate(images):
        name = f"camera{number}.png"
        with replacing(folder / name) as partial:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(partial, format="PNG")
        matrices = {
            "intrinsics": rig.intrinsics[0, number, :3, :3].tolist(),
            "camera_to_vehicle": rig.camera_to_vehicle[0, number].tolist(),
        }
        cameras.append({"image": name, **matrices})
    description: dict[str, Any] = {"cameras": cameras}
    if rig.points is not None:
        with replacing(folder / POINTS_FILE) as partial, partial.open("wb") as file:
            np.save(file, rig.points[0].numpy())
        description["points"] = POINTS_FILE
    with replacing(folder / RIG_FILE) as partial:
        partial.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder / RIG_FILE


def _read_matrix(
    row: Mapping[str, Any], name: str, side: int, location: str
) -> Float[Tensor, "n n"]:
    """Return a matrix of a camera in the JSON file.

    Args:
        row: entry of the camera.
        name: key of the matrix.
        side: number of its rows and columns.
        location: file and camera, for messages.

    Raises:
        InputError: if it is not an invertible matrix of this size that ends in the row 0 ... 0 1.
    """
    try:
        matrix = torch.tensor(row.get(name), dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.zeros(0)
    if matrix.shape != (side, side) or not bool(matrix.isfinite().all()):
        raise InputError(f"{location}: {name} must be {side} x {side} finite numbers")
    if abs(float(torch.linalg.det(matrix))) < 1e-12:
        raise InputError(f"{location}: {name} cannot be inverted: check its numbers")
    *zeros, one = matrix[-1].tolist()
    if any(zeros) or one != 1:
        last = "0 " * (side - 1) + "1"
        raise InputError(f"{location}: {name} must end in the row {last} (is it transposed?)")
    return matrix


def _read_points(path: Path, description: Mapping[str, Any]) -> tuple[Float[Tensor, "_ 5"]] | None:
    """Return the points of the LiDAR for a batch of one, or None if the file names none.

    Raises:
        InputError: if the file of the points cannot be used.
    """
    name = description.get("points")
    if name is None:
        return None
    if not isinstance(name, str):
        raise InputError(f"{path}: 'points' is not a path: give the path of an .npy file")
    array = read_array(path.parent / name)
    if array.ndim != 2 or array.shape[1] != POINT_CHANNELS:
        raise InputError(
            f"{path.parent / name}: shape {array.shape}: give rows of x, y, z, intensity and age"
        )
    points = torch.from_numpy(array.astype(np.float64)).float()
    if bad := int((~points.isfinite()).any(dim=1).sum()):
        raise InputError(f"{path.parent / name}: {bad} points are not finite: leave them out")
    return (points,)
