"""JSON files of a rig are read as they were written, and faults are reported in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.test_rig import rig

from diffsight.datasets.rig_file import read_image_or_rig, read_rig, write_rig
from diffsight.errors import InputError
from diffsight.ops.camera_crop import CameraCrop
from diffsight.rig import Rig

POSE = torch.eye(4).tolist()
MOVED = [*POSE[:3], [1.0, 2.0, 3.0, 1.0]]  # transposed


@pytest.mark.parametrize("points", [None, 7])
def test_a_rig_is_read_as_it_was_written(tmp_path: Path, points: int | None) -> None:
    one = rig(points=points)
    image, again = read_rig(write_rig(one, tmp_path / "scene"))
    assert image.shape == (3, 16, 40)  # both views side by side
    assert torch.equal(again.images, one.images)
    assert torch.equal(again.intrinsics, one.intrinsics)
    assert torch.equal(again.camera_to_vehicle, one.camera_to_vehicle)
    assert (again.points is None) == (points is None)
    if again.points is not None and one.points is not None:
        assert torch.equal(again.points[0], one.points[0])


def test_rig_files_and_images_are_refused_by_models_of_the_other_kind(tmp_path: Path) -> None:
    write_rig(rig(), tmp_path)
    picture = tmp_path / "camera0.png"
    image, no_rig = read_image_or_rig(picture, requires_rig=False)
    assert torch.equal(image, rig().images[0, 0])
    assert no_rig is None
    with pytest.raises(InputError, match="the model reads several cameras: give their JSON file"):
        read_image_or_rig(picture, requires_rig=True)
    with pytest.raises(InputError, match="the model reads one image, not a rig"):
        read_image_or_rig(tmp_path / "rig.json", requires_rig=False)


def drop(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return a change that removes a key of the first camera."""
    return lambda content: content["cameras"][0].pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(cameras=[]), "rig.json: no list of cameras"),
        (drop("image"), "camera 0 names no image: give its path"),
        (drop("intrinsics"), "camera 0: intrinsics must be 3 x 3 finite numbers"),
        (lambda a: a["cameras"][1].update(camera_to_vehicle=POSE[:3]), "must be 4 x 4 finite"),
        (lambda a: a["cameras"][1].update(intrinsics=[[0] * 3] * 3), "cannot be inverted"),
        (lambda a: a["cameras"][1].update(camera_to_vehicle=MOVED), "in the row 0 0 0 1 .is it tr"),
        (lambda a: a["cameras"][1].update(image="gone.png"), "gone.png: .*no such file"),
        (lambda a: a["cameras"][1].update(image="small.png"), r"sizes \(16 x 16, 20 x 16 px\)"),
        (lambda a: a.update(points=3), "'points' is not a path"),
        (lambda a: a.update(points="flat.npy"), r"flat.npy: shape \(3,\): give rows of x, y, z"),
        (lambda a: a.update(points="nan.npy"), "nan.npy: 1 points are not finite"),
    ],
)
def test_faults_are_reported_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = write_rig(rig(), tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "nan.npy", np.array([[0, 0, np.nan, 0, 0], [0.0] * 5]))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"(?i){message}") as error:
        read_rig(path)
    assert "\n" not in str(error.value)


def test_rigs_that_the_file_cannot_describe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rig of 2 rows: write each row alone"):
        write_rig(Rig.joined([rig(), rig(1)]), tmp_path)
    with pytest.raises(InputError, match="the frame of the rig was changed"):
        write_rig(replace(rig(), vehicle_change=torch.eye(4)[None]), tmp_path)


def test_rigs_with_cropped_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scaled or cropped: write the original ones"):
        write_rig(CameraCrop(1.0, 1, 1, (4, 4)).rig(rig()), tmp_path)
