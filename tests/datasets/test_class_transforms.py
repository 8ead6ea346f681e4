"""What segmentation trains with."""

import torch

from diffsight.datasets import ClassCrop, Pad, PhotoMetricDistortion, RandomCrop, RandomScale
from diffsight.datasets.base import Sample


def sample(height: int = 40, width: int = 60) -> Sample:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    ids = torch.zeros(height, width, dtype=torch.long)
    ids[:, width - 6 :] = 3
    valid = torch.ones(height, width, dtype=torch.bool)
    return Sample("a", image, {"semantic": ids}, {"semantic": valid})


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_scales_keep_the_shape() -> None:
    change = RandomScale(short_side=20, long_side=1000, factors=(0.5, 2.0))
    sizes = {tuple(change(sample(), drawn(seed)).image.shape[-2:]) for seed in range(40)}
    assert len(sizes) > 10
    assert all(10 <= height <= 40 and abs(width / height - 1.5) < 0.05 for height, width in sizes)
    bounded = RandomScale(short_side=20, long_side=24, factors=(1.0, 1.0))(sample(), drawn(0))
    assert bounded.image.shape[-2:] == (16, 24)


def test_a_window_with_more_than_one_class_is_preferred() -> None:
    change = ClassCrop(height=16, width=16, most=0.75)
    mixed = 0
    for seed in range(60):
        window = change(sample(), drawn(seed))
        assert window.image.shape == (3, 16, 16)
        mixed += len(window.labels["semantic"].unique()) == 2
    plain = RandomCrop(height=16, width=16)
    once = sum(
        len(plain(sample(), drawn(seed)).labels["semantic"].unique()) == 2 for seed in range(60)
    )
    assert once < 14 < mixed


def test_what_is_filled_up_has_no_label() -> None:
    small = ClassCrop(height=50, width=30)(sample(), drawn(0))
    assert small.image.shape == (3, 40, 30)
    window = Pad(height=50, width=20)(small, drawn(0))
    assert window.image.shape == (3, 50, 30)
    assert torch.equal(window.image[:, :40], small.image)
    assert (window.image[:, 40:] == 128).all()
    assert window.valid["semantic"][:40].all()
    assert not window.valid["semantic"][40:].any()
    assert window.labels["semantic"].dtype == torch.long


def test_colours_change_and_labels_stay() -> None:
    change = PhotoMetricDistortion()
    before = sample()
    after = [change(before, drawn(seed)) for seed in range(20)]
    assert sum(not torch.equal(one.image, before.image) for one in after) >= 17
    assert all(one.image.dtype == torch.uint8 for one in after)
    assert all(torch.equal(one.labels["semantic"], before.labels["semantic"]) for one in after)
    again = change(before, drawn(3))
    assert torch.equal(again.image, after[3].image)


def test_brightness_is_added_and_cut() -> None:
    change = PhotoMetricDistortion(
        brightness=32.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=1
    )
    grey = torch.full((3, 4, 4), 250, dtype=torch.uint8)
    flat = Sample("a", grey, {}, {})
    values = {int(change(flat, drawn(seed)).image[0, 0, 0]) for seed in range(60)}
    assert 250 in values
    assert max(values) == 255
    assert min(values) >= 218
