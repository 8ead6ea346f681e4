"""Predictions of people: each box is predicted as a region; an image has one prediction."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support_inference import (
    BOXES,
    HANDS,
    LEFT,
    RIGHT,
    Spots,
    draw_people,
    pose_model,
    write_detector,
)

import diffsight
from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor
from diffsight.inference.detect import PersonDetector
from diffsight.model import DenseModel
from diffsight.outputs import Output
from diffsight.tasks import Pose
from diffsight.types import Inputs, People


def people(*boxes: list[float]) -> People:
    return People.of_boxes(torch.tensor(boxes).reshape(-1, 4), torch.ones(len(boxes)))


def joints(prediction: Any) -> list[list[list[float]]]:
    """Return x and y of the hands of each person, from left to right."""
    label = prediction.to_label()
    return label[label[:, 0, 0].argsort(), :, :2].round(decimals=1).tolist()


def test_every_box_gives_the_joints_of_its_person() -> None:
    predictor = Predictor(pose_model(), Plan(batch_size=2))
    prediction = predictor.one(draw_people(LEFT, RIGHT), people=people(*BOXES))
    assert prediction.hw == (90, 120)
    for hands, (left, right) in zip(joints(prediction), (LEFT, RIGHT), strict=True):
        assert hands[0] == pytest.approx(left, abs=0.6)
        assert hands[1] == pytest.approx(right, abs=0.6)


def test_predictions_have_the_order_of_the_images_for_any_number_of_people() -> None:
    images = [
        draw_people(),
        draw_people(LEFT, RIGHT),
        draw_people(),
        draw_people(RIGHT),
        draw_people(),
    ]
    boxes = [people(), people(*BOXES), people(), people(BOXES[1]), people()]
    expected = [0, 2, 0, 1, 0]
    for size in (1, 2, 8):
        predictor = Predictor(pose_model(), Plan(batch_size=size))
        predictions = list(predictor(iter(images), None, iter(boxes)))
        assert [len(one.to_label()) for one in predictions] == expected
        assert joints(predictions[1])[1] == joints(predictions[3])[0]


def test_an_image_is_finished_before_the_next_one_is_read() -> None:
    read = []

    def images() -> Any:
        for number in range(3):
            read.append(number)
            yield draw_people(LEFT)

    stream = Predictor(pose_model())(images(), None, [people(BOXES[0])] * 3)
    for number in range(3):
        next(stream)
        assert read == list(range(number + 1))


def test_flips_and_scales_do_not_move_the_joints() -> None:
    class Sided(Spots):
        """Swap the hands in a mirrored image, as a trained network does.

        The image is mirrored if its left edge is not blue.
        """

        def forward(self, inputs: Inputs, *rest: Any, **options: Any) -> Output:
            output = super().forward(inputs, *rest, **options)
            is_original = inputs.image[:, 2, :, 0].mean(dim=1) > 0.5
            swapped = output.stack[:, [1, 0]]
            return output.with_stack(
                torch.where(is_original[:, None, None, None], output.stack, swapped)
            )

    task = Pose(names=HANDS, sigmas=(0.05, 0.05), limbs=[], height=64, width=64, stride=2)
    model = DenseModel(task=task, method=partial(Sided))
    image = draw_people(LEFT)
    image[2, :, :30] = (
        1.0  # a blue area to the left of the person, which tells if the image is mirrored
    )
    plain, flipped, scaled = (
        joints(Predictor(model, plan).one(image, people=people(BOXES[0])))
        for plan in (Plan(), Plan(flip=True), Plan(flip=True, scales=(1.0, 1.5)))
    )
    for hands in (flipped, scaled):
        np.testing.assert_allclose(hands, plain, atol=0.6)


def test_windows_of_a_region_are_merged_at_the_size_of_the_heatmaps() -> None:
    image = draw_people(LEFT)
    tiled = Predictor(pose_model(), Plan(tile=32, stride=32)).one(image, people=people(BOXES[0]))
    whole = Predictor(pose_model()).one(image, people=people(BOXES[0]))
    np.testing.assert_allclose(joints(tiled), joints(whole), atol=1.0)


def test_windows_that_begin_within_a_heatmap_pixel_are_refused() -> None:
    predictor = Predictor(pose_model(), Plan(tile=32, stride=31))
    with pytest.raises(InputError, match="choose --tile and --stride that are multiples of"):
        predictor.one(draw_people(LEFT), people=people(BOXES[0]))


def test_a_pipeline_accepts_boxes() -> None:
    predict = diffsight.pipeline(pose_model(), device="cpu")
    image = draw_people(LEFT, RIGHT)
    assert len(predict(image, boxes=BOXES).to_label()) == 2
    both = predict([image, image], boxes=[BOXES[:1], []])
    assert [len(one.to_label()) for one in both] == [1, 0]
    assert len(predict(draw_people(LEFT)).to_label()) == 1  # without boxes there is one person
    message = "a box is empty: give rows of left, top, right and bottom"
    with pytest.raises(InputError, match=message):
        predict(image, boxes=[[5, 5, 5, 9]])
    with pytest.raises(InputError, match="not rows of four numbers"):
        predict(image, boxes=[[5, 5, 5]])


@pytest.mark.parametrize(
    "box",
    [[120, 5, 150, 30], [5, 90, 30, 95], [-30, 5, 0, 30], [5, -30, 30, 0]],
)
def test_a_pipeline_refuses_boxes_outside_of_their_image(box: list[int]) -> None:
    predict = diffsight.pipeline(pose_model(), device="cpu")
    image, where = draw_people(LEFT, RIGHT), "lies outside of its image of 120 x 90 px: correct it"
    with pytest.raises(InputError, match=where) as caught:
        predict(image, boxes=[*BOXES, box])
    assert str([float(edge) for edge in box]) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=rf"image 1: .*{where}"):
        predict([image, image], boxes=[BOXES, [box]])
    with pytest.raises(InputError, match=r"a box is empty: .*nan"):
        predict(image, boxes=[[5.0, 5.0, float("nan"), 9.0]])
    inside = [box[0] * 0.9 + 6, box[1] * 0.9 + 3, box[2] * 0.9 + 6, box[3] * 0.9 + 3]
    # a box that is partly inside the image
    assert len(predict(image, boxes=[inside]).to_label()) == 1


def test_a_person_detector_returns_boxes_inside_the_image_best_first(tmp_path: Path) -> None:
    write_detector(tmp_path / "detector", {0: "person", 1: "cat"}, bias=3.0)
    people = PersonDetector(tmp_path / "detector")(draw_people(LEFT, RIGHT))
    assert len(people) > 0
    edges = people.edges
    assert (edges >= 0).all()
    assert (edges <= torch.tensor([120.0, 90.0, 120.0, 90.0])).all()
    assert (edges[:, 2:] > edges[:, :2]).all()
    assert people.scores.tolist() == sorted(people.scores.tolist(), reverse=True)
    assert float(people.scores.min()) >= 0.5


def test_a_detector_without_a_class_for_people_is_refused(tmp_path: Path) -> None:
    write_detector(tmp_path / "detector", {0: "dog", 1: "cat"}, bias=0.0)
    with pytest.raises(InputError, match="detects no class 'person'"):
        PersonDetector(tmp_path / "detector")
