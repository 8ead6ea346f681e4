"""COCO keypoints: people, boxes of a detector, and refused files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contracts import DatasetContract
from tests.support_datasets import (
    person_annotation,
    person_detection,
    write_detections,
    write_people,
)

from diffsight.datasets import CocoKeypoints
from diffsight.errors import InputError


class TestCocoKeypoints(DatasetContract):
    def build(self, folder: Path) -> CocoKeypoints:
        write_people(folder)
        return CocoKeypoints(root=folder, split="val")


def test_crowds_are_annotated_but_not_predicted(tmp_path: Path) -> None:
    write_people(tmp_path)
    data = CocoKeypoints(root=tmp_path, split="val")
    assert [data[i].id for i in range(len(data))] == ["139", "285", "632"]
    people = data[0].people
    assert people is not None
    assert people.edges[1].tolist() == [10.5, 2.0, 22.5, 27.0]
    assert people.is_crowd.tolist() == [False, False, True]
    assert people.keypoints[0, 3].tolist() == [8.0, 9.0, 2.0]
    queries = [data[i].queries() for i in range(3)]
    assert [len(people) for people in queries if people is not None] == [2, 0, 0]


def test_each_person_is_a_sample_for_training(tmp_path: Path) -> None:
    write_people(tmp_path)
    data = CocoKeypoints(root=tmp_path, split="val", each="person")
    assert [data[i].id for i in range(len(data))] == ["139-0", "139-1"]
    assert data[1].labels["keypoints"].shape == (1, 17, 3)


def test_detections_are_filtered_and_sorted_by_score(tmp_path: Path) -> None:
    write_people(tmp_path)
    rows = [
        person_detection(139, 0.2, 1, 2, 3, 4),
        person_detection(139, 0.9, 5, 6, 7, 8),
        person_detection(139, 0.95, 5, 6, 7, 8, category=2),
        person_detection(632, 0.01, 0, 0, 5, 5),
    ]
    path = write_detections(tmp_path, rows)
    data = CocoKeypoints(root=tmp_path, split="val", boxes=path, least_score=0.1)
    queries = [data[i].queries() for i in range(3)]
    assert queries[0] is not None
    assert queries[0].edges.tolist() == [[5.0, 6.0, 12.0, 14.0], [1.0, 2.0, 4.0, 6.0]]
    assert queries[0].scores.tolist() == pytest.approx([0.9, 0.2])
    assert [len(people) for people in queries if people is not None] == [2, 0, 0]


def test_a_test_set_without_annotations_is_read(tmp_path: Path) -> None:
    path = write_people(tmp_path)
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    data = CocoKeypoints(root=tmp_path, split="val")
    assert len(data) == 3
    assert data[0].labels["keypoints"].shape == (0, 17, 3)
    with pytest.raises(InputError, match="contains no person"):
        CocoKeypoints(root=tmp_path, split="val", each="person")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([person_detection(139, 0.5, 50, 2, 3, 4)], r"outside of its image of 40 x 30 px"),
        ([person_detection(139, 0.5, 5, -9, 3, 4)], r"outside of its image of 40 x 30 px"),
        ([person_detection(139, 0.5, 5, 2, 0, 4)], r"\[5.0, 2.0, 0.0, 4.0\] is empty"),
        (
            [person_detection(42, 0.5, 5, 2, 3, 4)],
            "belongs to image 42, which is not in the data set",
        ),
        ([{"image_id": 139}], "no detections"),
        ([person_detection(139, float("nan"), 1, 2, 3, 4)], "NaN|nan is not a finite number"),
        ({"a": 1}, "no detections"),
    ],
)
def test_bad_detections_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    write_people(tmp_path)
    path = write_detections(tmp_path, rows)
    with pytest.raises(InputError, match=message) as error:
        CocoKeypoints(root=tmp_path, split="val", boxes=path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (person_annotation(9, 139, bbox=[4, 5, 0, 3]), "annotation 9: the box .* is empty"),
        (person_annotation(9, 139, bbox=[400, 5, 4, 3]), "annotation 9: .* outside of its image"),
        (
            person_annotation(9, 139, keypoints=[1, 2, 2]),
            "annotation 9 has 3 numbers instead of three for",
        ),
        (person_annotation(9, 77), "annotation 9 belongs to image 77"),
        ({"id": 9, "image_id": 139}, "not a COCO keypoints file"),
    ],
)
def test_bad_annotations_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    path = write_people(tmp_path, [row])
    with pytest.raises(InputError, match=message) as error:
        CocoKeypoints(root=tmp_path, split="val")
    assert str(error.value).startswith(str(path))


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path)
    name = tmp_path / "val2017" / "000000000285.jpg"
    Image.fromarray(np.zeros((18, 19, 3), np.uint8)).save(name)
    with pytest.raises(InputError, match=r"19 x 18 pixels, but .*val2017.json says 40 x 30"):
        CocoKeypoints(root=tmp_path, split="val")[1]


def test_detections_require_samples_of_whole_images(tmp_path: Path) -> None:
    write_people(tmp_path)
    path = write_detections(tmp_path, [])
    with pytest.raises(InputError, match="boxes requires each='image'"):
        CocoKeypoints(root=tmp_path, split="val", each="person", boxes=path)
    assert len(CocoKeypoints(root=tmp_path, split="val", boxes=path)[0].queries() or ()) == 0
    assert torch.equal(
        CocoKeypoints(root=tmp_path, split="val", boxes=path)[0].image,
        CocoKeypoints(root=tmp_path, split="val")[0].image,
    )
