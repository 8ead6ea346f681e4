"""PersonCrop: image and joints move together; the view shows the whole body or half of it."""

from dataclasses import replace

import pytest
import torch

from diffsight.datasets import HorizontalFlip, PersonCrop, RandomCrop, Resize
from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.types import People

GENERATOR = torch.Generator()
NAMES = ("head", "left_hand", "right_hand", "left_foot", "right_foot")


def person() -> Sample:
    """Return the image of a person with a 3 x 3 spot at every joint; left joints are brighter."""
    joints = torch.tensor([[40.0, 22, 2], [30, 40, 2], [52, 41, 1], [33, 70, 2], [49, 69, 0]])
    image = torch.zeros(3, 90, 80, dtype=torch.uint8)
    for i, (x, y, _) in enumerate(joints.int().tolist()):
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 250 if i in (1, 3) else 120
    people = People(
        edges=torch.tensor([[25.0, 15.0, 57.0, 75.0]]),
        scores=torch.ones(1),
        keypoints=joints[None],
        areas=torch.tensor([900.0]),
        is_crowd=torch.tensor([False]),
    )
    valid = torch.ones(90, 80, dtype=torch.bool)
    return Sample("1", image, {"keypoints": joints[None]}, {"keypoints": valid}, people=people)


def crop(**options: object) -> PersonCrop:
    return PersonCrop(height=96, width=72, names=NAMES, upper_joints=3, **options)  # type: ignore[arg-type]


STILL = dict.fromkeys(
    ("scale", "turn_probability", "flip_probability", "half_body_probability"), 0.0
)


def test_without_randomness_the_view_is_the_padded_box() -> None:
    view = crop(**STILL)(person(), GENERATOR)
    assert view.image.shape == (3, 96, 72)
    assert view.people is None
    assert view.valid["keypoints"].shape == (96, 72)
    (joints,) = view.labels["keypoints"]
    # the padded box has 1.25 x 60 = 75 px, and spans 95 px from the first to the last pixel row
    scale = 95 / 75
    expected = torch.tensor([[(40 - 41) * scale + 35.5, (22 - 45) * scale + 47.5]])
    torch.testing.assert_close(joints[:1, :2], expected)
    assert joints[:, 2].tolist() == [2, 2, 1, 2, 0]


@pytest.mark.parametrize("seed", range(8))
def test_pixels_and_joints_move_together(seed: int) -> None:
    change = crop(scale=0.2, degrees=30.0, turn_probability=1.0, half_body_probability=0.0)
    view = change(person(), torch.Generator().manual_seed(seed))
    for i, (x, y, _) in enumerate(view.labels["keypoints"][0].tolist()):
        column, row = round(x), round(y)
        if 1 <= column < 71 and 1 <= row < 95:
            around = int(view.image[0, row - 1 : row + 2, column - 1 : column + 2].max())
            # mirroring swaps left and right names, so joints named left are bright in both cases
            assert around > 60, (i, around)


def test_mirroring_swaps_left_and_right_joints() -> None:
    options = {**STILL, "flip_probability": 1.0}
    plain, mirrored = crop(**STILL)(person(), GENERATOR), crop(**options)(person(), GENERATOR)
    assert torch.equal(mirrored.image, plain.image.flip(-1))
    one, other = plain.labels["keypoints"][0], mirrored.labels["keypoints"][0]
    torch.testing.assert_close(other[2, :2], torch.stack([71 - one[1, 0], one[1, 1]]))
    assert other[2, 2] == one[1, 2]


def test_half_a_body_fills_more_of_the_view() -> None:
    options = {**STILL, "half_body_probability": 1.0, "half_body_joints": 3}
    heights = set()
    for seed in range(6):
        view = crop(**options)(person(), torch.Generator().manual_seed(seed))
        joints = view.labels["keypoints"][0]
        heights.add(round(float(joints[3, 1] - joints[0, 1])))
    whole = crop(**STILL)(person(), GENERATOR).labels["keypoints"][0]
    assert min(heights) > float(whole[3, 1] - whole[0, 1])
    few = {**options, "half_body_joints": 4}
    view = crop(**few)(person(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(view.labels["keypoints"][0], whole)


def test_all_random_numbers_come_from_the_generator() -> None:
    first, second = (crop()(person(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    other = crop()(person(), torch.Generator().manual_seed(4))
    assert not torch.equal(first.image, other.image)


def test_only_samples_of_one_person_are_accepted() -> None:
    sample = person()
    assert sample.people is not None
    both = sample.people.at(torch.tensor([0, 0]))
    with pytest.raises(
        InputError, match="sample 1 shows 2 people, but PersonCrop needs exactly one"
    ):
        crop()(replace(sample, people=both), GENERATOR)
    with pytest.raises(InputError, match="shows 0 people"):
        crop()(replace(sample, people=None), GENERATOR)
    for change in (HorizontalFlip(probability=1.0), Resize(height=9, width=9)):
        with pytest.raises(InputError, match="augment it with PersonCrop"):
            change(sample, GENERATOR)
    with pytest.raises(InputError, match="augment it with PersonCrop"):
        RandomCrop(height=8, width=8)(sample, torch.Generator().manual_seed(0))
