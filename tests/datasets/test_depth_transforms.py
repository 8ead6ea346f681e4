"""Augmentations for depth: crop, rotation and gain."""

import math
from dataclasses import replace

import pytest
import torch
from tests.support_samples import make_sample, seeded

from diffsight.datasets import FixedCrop, RandomGain, RandomRotation
from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.types import Boxes

ONE = (1.0, 1.0)


def make_sample_without_normals(height: int = 25, width: int = 33) -> Sample:
    sample = make_sample(height, width)
    labels = {k: v for k, v in sample.labels.items() if k != "normals"}
    valid = {k: v for k, v in sample.valid.items() if k != "normals"}
    return replace(sample, labels=labels, valid=valid)


def test_fixed_crop_cuts_image_and_labels() -> None:
    sample = make_sample(24, 32)
    part = FixedCrop(top=3, left=5, height=10, width=20)(sample, seeded(0))
    assert torch.equal(part.image, sample.image[:, 3:13, 5:25])
    assert torch.equal(part.labels["depth_m"], sample.labels["depth_m"][:, 3:13, 5:25])
    with pytest.raises(InputError, match="the window ends at row 33 and column 25, outside"):
        FixedCrop(top=23, left=5, height=10, width=20)(sample, seeded(0))


def test_image_and_labels_rotate_by_the_same_angle() -> None:
    """A disc with its own colour and depth is at the same rotated position in both."""
    sample = make_sample_without_normals(65, 65)
    y, x = torch.meshgrid(torch.arange(65), torch.arange(65), indexing="ij")
    disc = (y - 32) ** 2 + (x - 56) ** 2 <= 16
    image = (disc * 255).to(torch.uint8).expand(3, -1, -1)
    labels = {"depth_m": torch.where(disc, 5.0, 1.0)[None]}
    valid = {"depth_m": torch.ones(65, 65, dtype=torch.bool)}
    sample = replace(sample, image=image, labels=labels, valid=valid, boxes=None)
    rotated = RandomRotation(degrees=30.0, probability=1.0)(sample, seeded(3))
    bright = rotated.image[0].float() / 255
    far = (rotated.labels["depth_m"][0] == 5).float()
    centres = [
        (float((mask * y).sum() / mask.sum()), float((mask * x).sum() / mask.sum()))
        for mask in (bright, far)
    ]
    assert centres[0] == pytest.approx(centres[1], abs=0.2)
    distance = math.dist(centres[0], (32, 32))
    assert distance == pytest.approx(24, abs=0.2)  # the rotation is around the centre
    angle = math.degrees(math.atan2(centres[0][0] - 32, centres[0][1] - 32))
    assert 1 < abs(angle) <= 30


def test_corners_from_outside_the_image_are_black_without_label() -> None:
    sample = make_sample_without_normals()
    sample = replace(sample, valid={k: torch.ones_like(v) for k, v in sample.valid.items()})
    rotated = RandomRotation(degrees=20.0, probability=1.0)(sample, seeded(1))
    valid = rotated.valid["depth_m"]
    assert valid[12, 16]
    assert not valid[0, 0] or not valid[0, -1]
    assert (rotated.image[:, ~valid] == 0).float().mean() > 0.5
    assert rotated.camera is None


def test_normals_and_boxes_cannot_be_rotated() -> None:
    with pytest.raises(InputError, match="normals cannot be rotated"):
        RandomRotation()(make_sample(), seeded(0))
    boxes = Boxes(torch.zeros(1).long(), torch.tensor([[0.0, 0, 4, 4]]), torch.ones(1) > 0)
    with pytest.raises(InputError, match="boxes cannot be rotated"):
        RandomRotation()(replace(make_sample_without_normals(), boxes=boxes), seeded(0))


def test_random_gain_equals_its_formula() -> None:
    sample = make_sample()
    identity = RandomGain(gamma=ONE, brightness=ONE, colour=ONE, probability=1.0)
    assert torch.equal(identity(sample, seeded(0)).image, sample.image)
    squared = RandomGain(gamma=(2.0, 2.0), brightness=(0.5, 0.5), colour=ONE, probability=1.0)
    expected = (255 * (sample.image / 255) ** 2 * 0.5).round().to(torch.uint8)
    assert torch.equal(squared(sample, seeded(0)).image, expected)
    colours = RandomGain(gamma=ONE, brightness=ONE, probability=1.0)(sample, seeded(2)).image
    factors = [float((colours[c] / sample.image[c]).nanmedian()) for c in range(3)]
    assert len({round(factor, 2) for factor in factors}) == 3
    assert torch.equal(RandomGain(probability=0.0)(sample, seeded(0)).image, sample.image)
