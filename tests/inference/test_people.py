"""People in photographs: every view by itself, merged into one prediction of the image."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

import diffsight
from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor
from diffsight.inference.detect import PersonDetector
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.outputs import Heatmaps, Output, OutputSpec
from diffsight.tasks import Pose
from diffsight.types import Draws, Inputs, People, Target

HANDS = ("left_hand", "right_hand")


class Spots(AbstractMethod):
    """The left hand is where the image is red, the right one where it is green.

    In a mirror image a left hand looks like a right one, so colours change places with sides there:
    ``mirrored`` images are marked by a blue pixel in the top right corner instead of the left one.
    """

    output_kinds = ("heatmaps",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.stride = output.stride
        self.weight = nn.Parameter(torch.ones(1))

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        height, width = inputs.image.shape[-2:]
        hw = (-(-height // self.stride), -(-width // self.stride))
        maps = functional.interpolate(inputs.image[:, :2], hw, mode="bilinear", align_corners=True)
        return Heatmaps(maps * self.weight, self.stride)


def spots() -> DenseModel:
    task = Pose(names=HANDS, sigmas=(0.05, 0.05), limbs=[(0, 1)], height=64, width=64, stride=2)
    return DenseModel(task=task, method=partial(Spots))


def picture(*people: tuple[tuple[float, float], tuple[float, float]]) -> torch.Tensor:
    """A black image with a red and a green spot for each person."""
    rows, columns = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    image = torch.zeros(3, 90, 120)
    for hands in people:
        for channel, (x, y) in enumerate(hands):
            image[channel] += torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / 2.5**2)
    return image.clamp(0, 1)


LEFT, RIGHT = ((20.0, 30.0), (34.0, 52.0)), ((80.0, 60.0), (97.5, 41.0))
BOXES = [[12.0, 22.0, 42.0, 60.0], [70.0, 32.0, 108.0, 70.0]]


def people(*boxes: list[float]) -> People:
    return People.of_boxes(torch.tensor(boxes).reshape(-1, 4), torch.ones(len(boxes)))


def found(prediction: Any) -> list[list[list[float]]]:
    label = prediction.to_label()
    return label[label[:, 0, 0].argsort(), :, :2].round(decimals=1).tolist()


def test_every_person_is_found_in_a_view_of_its_own() -> None:
    predictor = Predictor(spots(), Plan(batch_size=2))
    prediction = predictor.one(picture(LEFT, RIGHT), people=people(*BOXES))
    assert prediction.hw == (90, 120)
    for hands, (left, right) in zip(found(prediction), (LEFT, RIGHT), strict=True):
        assert hands[0] == pytest.approx(left, abs=0.6)
        assert hands[1] == pytest.approx(right, abs=0.6)


def test_images_with_many_people_or_none_come_in_order() -> None:
    images = [picture(), picture(LEFT, RIGHT), picture(), picture(RIGHT), picture()]
    boxes = [people(), people(*BOXES), people(), people(BOXES[1]), people()]
    expected = [0, 2, 0, 1, 0]
    for size in (1, 2, 8):
        predictor = Predictor(spots(), Plan(batch_size=size))
        predictions = list(predictor(iter(images), None, iter(boxes)))
        assert [len(one.to_label()) for one in predictions] == expected
        assert found(predictions[1])[1] == found(predictions[3])[0]


def test_an_image_is_done_before_the_next_one_is_read() -> None:
    read = []

    def images() -> Any:
        for number in range(3):
            read.append(number)
            yield picture(LEFT)

    stream = Predictor(spots())(images(), None, [people(BOXES[0])] * 3)
    for number in range(3):
        next(stream)
        assert read == list(range(number + 1))


def test_sides_and_scales_agree() -> None:
    class Sided(Spots):
        """Knows the sides of a mirrored image, as a trained network does."""

        def forward(self, inputs: Inputs, *rest: Any, **options: Any) -> Output:
            output = super().forward(inputs, *rest, **options)
            red_is_left = inputs.image[:, 2, :, 0].mean(dim=1) > 0.5
            swapped = output.stack[:, [1, 0]]
            return output.with_stack(
                torch.where(red_is_left[:, None, None, None], output.stack, swapped)
            )

    task = Pose(names=HANDS, sigmas=(0.05, 0.05), limbs=[], height=64, width=64, stride=2)
    model = DenseModel(task=task, method=partial(Sided))
    image = picture(LEFT)
    image[2, :, :30] = 1.0  # blue on the left of the person
    plain, flipped, scaled = (
        found(Predictor(model, plan).one(image, people=people(BOXES[0])))
        for plan in (Plan(), Plan(flip=True), Plan(flip=True, scales=(1.0, 1.5)))
    )
    for hands in (flipped, scaled):
        np.testing.assert_allclose(hands, plain, atol=0.6)


def test_windows_of_a_view_are_put_together_at_the_size_of_heatmaps() -> None:
    image = picture(LEFT)
    tiled = Predictor(spots(), Plan(tile=32, stride=32)).one(image, people=people(BOXES[0]))
    whole = Predictor(spots()).one(image, people=people(BOXES[0]))
    np.testing.assert_allclose(found(tiled), found(whole), atol=1.0)


def test_a_pipeline_takes_boxes() -> None:
    predict = diffsight.pipeline(spots(), device="cpu")
    image = picture(LEFT, RIGHT)
    assert len(predict(image, boxes=BOXES).to_label()) == 2
    both = predict([image, image], boxes=[BOXES[:1], []])
    assert [len(one.to_label()) for one in both] == [1, 0]
    assert len(predict(picture(LEFT)).to_label()) == 1  # it shows one person
    with pytest.raises(InputError, match="one is empty: give rows of left, top, right and bottom"):
        predict(image, boxes=[[5, 5, 5, 9]])
    with pytest.raises(InputError, match="no numbers of four each"):
        predict(image, boxes=[[5, 5, 5]])


def detector(names: dict[int, str]) -> RTDetrForObjectDetection:
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 8, 8],
        d_model=16, num_queries=12, decoder_in_channels=[16, 16, 16], encoder_ffn_dim=16,
        decoder_ffn_dim=16, decoder_layers=1, encoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, id2label=names, label2id={n: i for i, n in names.items()},
    )  # fmt: skip
    return RTDetrForObjectDetection(config)


def test_a_detector_of_transformers_gives_boxes_in_the_image(tmp_path: Path) -> None:
    network = detector({0: "person", 1: "cat"})
    for name, weight in network.named_parameters():
        if "class_embed" in name and name.endswith("bias"):
            weight.data.fill_(3.0)  # everybody is a person
    network.save_pretrained(tmp_path / "detector")
    people = PersonDetector(tmp_path / "detector")(picture(LEFT, RIGHT))
    assert len(people) > 0
    edges = people.edges
    assert (edges >= 0).all()
    assert (edges <= torch.tensor([120.0, 90.0, 120.0, 90.0])).all()
    assert (edges[:, 2:] > edges[:, :2]).all()
    assert people.scores.tolist() == sorted(people.scores.tolist(), reverse=True)
    assert float(people.scores.min()) >= 0.5


def test_a_detector_without_people_is_refused(tmp_path: Path) -> None:
    detector({0: "dog", 1: "cat"}).save_pretrained(tmp_path / "detector")
    with pytest.raises(InputError, match="detects no class 'person'"):
        PersonDetector(tmp_path / "detector")
