"""COCO keypoints: people, boxes of detectors, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contracts import DatasetContract

from diffsight.datasets import CocoKeypoints
from diffsight.errors import InputError

WIDTH, HEIGHT = 40, 30


def annotation(number: int, image: int, **changes: Any) -> dict[str, Any]:
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


def write(folder: Path, annotations: list[dict[str, Any]] | None = None) -> Path:
    """Three images: two people and a crowd, a person without joints, and nobody."""
    rows = annotations
    if rows is None:
        bare = [0] * 51
        rows = [
            annotation(1, 139),
            annotation(2, 139, bbox=[10.5, 2.0, 12.0, 25.0]),
            annotation(3, 139, iscrowd=1, keypoints=bare, bbox=[0, 0, 40, 30]),
            annotation(4, 285, keypoints=bare),
        ]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "val2017").mkdir(exist_ok=True)
    images = []
    for number in (139, 285, 632):
        name = f"{number:012d}.jpg"
        pixels = np.full((HEIGHT, WIDTH, 3), number % 256, np.uint8)
        Image.fromarray(pixels).save(folder / "val2017" / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
    path = folder / "annotations" / "person_keypoints_val2017.json"
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    return path


def write_boxes(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "boxes.json"
    path.write_text(json.dumps(rows))
    return path


def box(image: Any, score: float, *edges: float, category: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(edges), "score": score}


class TestCocoKeypoints(DatasetContract):
    def build(self, folder: Path) -> CocoKeypoints:
        write(folder)
        return CocoKeypoints(root=folder, split="val")


def test_all_people_of_an_image_and_crowds(tmp_path: Path) -> None:
    write(tmp_path)
    data = CocoKeypoints(root=tmp_path, split="val")
    assert [data[i].id for i in range(len(data))] == ["139", "285", "632"]
    people = data[0].people
    assert people is not None
    assert people.edges[1].tolist() == [10.5, 2.0, 22.5, 27.0]
    assert people.is_crowd.tolist() == [False, False, True]
    assert people.keypoints[0, 3].tolist() == [8.0, 9.0, 2.0]
    queries = [data[i].queries() for i in range(3)]
    assert [len(one) for one in queries if one is not None] == [2, 0, 0]


def test_one_person_at_a_time_to_train_on(tmp_path: Path) -> None:
    write(tmp_path)
    data = CocoKeypoints(root=tmp_path, split="val", each="person")
    assert [data[i].id for i in range(len(data))] == ["139-0", "139-1"]
    assert data[1].labels["keypoints"].shape == (1, 17, 3)


def test_boxes_of_a_detector_best_first(tmp_path: Path) -> None:
    write(tmp_path)
    rows = [
        box(139, 0.2, 1, 2, 3, 4),
        box(139, 0.9, 5, 6, 7, 8),
        box(139, 0.95, 5, 6, 7, 8, category=2),
        box(632, 0.01, 0, 0, 5, 5),
    ]
    path = write_boxes(tmp_path, rows)
    data = CocoKeypoints(root=tmp_path, split="val", boxes=path, least_score=0.1)
    found = [data[i].queries() for i in range(3)]
    assert found[0] is not None
    assert found[0].edges.tolist() == [[5.0, 6.0, 12.0, 14.0], [1.0, 2.0, 4.0, 6.0]]
    assert found[0].scores.tolist() == pytest.approx([0.9, 0.2])
    assert [len(one) for one in found if one is not None] == [2, 0, 0]


def test_a_test_set_without_annotations_can_be_run(tmp_path: Path) -> None:
    path = write(tmp_path)
    about = json.loads(path.read_text())
    del about["annotations"]
    path.write_text(json.dumps(about))
    data = CocoKeypoints(root=tmp_path, split="val")
    assert len(data) == 3
    assert data[0].labels["keypoints"].shape == (0, 17, 3)
    with pytest.raises(InputError, match="no person in it"):
        CocoKeypoints(root=tmp_path, split="val", each="person")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([box(139, 0.5, 50, 2, 3, 4)], r"outside of its image of 40 x 30 px"),
        ([box(139, 0.5, 5, -9, 3, 4)], r"outside of its image of 40 x 30 px"),
        ([box(139, 0.5, 5, 2, 0, 4)], r"\[5.0, 2.0, 0.0, 4.0\] is empty"),
        ([box(42, 0.5, 5, 2, 3, 4)], "image 42, which is not in the data set"),
        ([{"image_id": 139}], "no detections"),
        ([box(139, float("nan"), 1, 2, 3, 4)], "NaN|nan is no number"),
        ({"a": 1}, "no detections"),
    ],
)
def test_boxes_that_cannot_be_used(tmp_path: Path, rows: Any, message: str) -> None:
    write(tmp_path)
    path = write_boxes(tmp_path, rows)
    with pytest.raises(InputError, match=message) as error:
        CocoKeypoints(root=tmp_path, split="val", boxes=path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (annotation(9, 139, bbox=[4, 5, 0, 3]), "annotation 9: the box .* is empty"),
        (annotation(9, 139, bbox=[400, 5, 4, 3]), "annotation 9: .* outside of its image"),
        (annotation(9, 139, keypoints=[1, 2, 2]), "annotation 9 has 3 numbers for 17 joints"),
        (annotation(9, 77), "annotation 9 is of image 77"),
        ({"id": 9, "image_id": 139}, "no joints of COCO"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path, [row])
    with pytest.raises(InputError, match=message) as error:
        CocoKeypoints(root=tmp_path, split="val")
    assert str(error.value).startswith(str(path))


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    name = tmp_path / "val2017" / "000000000285.jpg"
    Image.fromarray(np.zeros((18, 19, 3), np.uint8)).save(name)
    with pytest.raises(InputError, match=r"19 x 18 pixels, .*val2017.json says 40 x 30"):
        CocoKeypoints(root=tmp_path, split="val")[1]


def test_boxes_are_for_images(tmp_path: Path) -> None:
    write(tmp_path)
    path = write_boxes(tmp_path, [])
    with pytest.raises(InputError, match="boxes are for each='image'"):
        CocoKeypoints(root=tmp_path, split="val", each="person", boxes=path)
    assert len(CocoKeypoints(root=tmp_path, split="val", boxes=path)[0].queries() or ()) == 0
    assert torch.equal(
        CocoKeypoints(root=tmp_path, split="val", boxes=path)[0].image,
        CocoKeypoints(root=tmp_path, split="val")[0].image,
    )
