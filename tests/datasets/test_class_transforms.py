"""Augmentations for segmentation: scale, crop, pad and change of colours."""

import torch

from diffsight.datasets import ClassCrop, Pad, PhotoMetricDistortion, RandomCrop, RandomScale
from diffsight.datasets.base import Sample


def make_sample(height: int = 40, width: int = 60) -> Sample:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    ids = torch.zeros(height, width, dtype=torch.long)
    ids[:, width - 6 :] = 3
    valid = torch.ones(height, width, dtype=torch.bool)
    return Sample("a", image, {"semantic": ids}, {"semantic": valid})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_scale_keeps_the_aspect_ratio() -> None:
    transform = RandomScale(short_side=20, long_side=1000, factors=(0.5, 2.0))
    sizes = {tuple(transform(make_sample(), seeded(seed)).image.shape[-2:]) for seed in range(40)}
    assert len(sizes) > 10
    assert all(10 <= height <= 40 and abs(width / height - 1.5) < 0.05 for height, width in sizes)
    bounded = RandomScale(short_side=20, long_side=24, factors=(1.0, 1.0))(make_sample(), seeded(0))
    assert bounded.image.shape[-2:] == (16, 24)


def test_class_crop_prefers_windows_with_several_classes() -> None:
    transform = ClassCrop(height=16, width=16, most=0.75)
    mixed_count = 0
    for seed in range(60):
        window = transform(make_sample(), seeded(seed))
        assert window.image.shape == (3, 16, 16)
        mixed_count += len(window.labels["semantic"].unique()) == 2
    baseline = RandomCrop(height=16, width=16)
    baseline_count = sum(
        len(baseline(make_sample(), seeded(seed)).labels["semantic"].unique()) == 2
        for seed in range(60)
    )
    assert baseline_count < 14 < mixed_count


def test_padding_is_grey_and_has_no_label() -> None:
    small = ClassCrop(height=50, width=30)(make_sample(), seeded(0))
    assert small.image.shape == (3, 40, 30)
    window = Pad(height=50, width=20)(small, seeded(0))
    assert window.image.shape == (3, 50, 30)
    assert torch.equal(window.image[:, :40], small.image)
    assert (window.image[:, 40:] == 128).all()
    assert window.valid["semantic"][:40].all()
    assert not window.valid["semantic"][40:].any()
    assert window.labels["semantic"].dtype == torch.long


def test_photometric_distortion_changes_the_image_but_not_the_labels() -> None:
    transform = PhotoMetricDistortion()
    before = make_sample()
    after = [transform(before, seeded(seed)) for seed in range(20)]
    assert sum(not torch.equal(other.image, before.image) for other in after) >= 17
    assert all(other.image.dtype == torch.uint8 for other in after)
    assert all(torch.equal(other.labels["semantic"], before.labels["semantic"]) for other in after)
    again = transform(before, seeded(3))
    assert torch.equal(again.image, after[3].image)


def test_brightness_is_added_and_clamped_to_255() -> None:
    transform = PhotoMetricDistortion(
        brightness=32.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=1
    )
    grey = torch.full((3, 4, 4), 250, dtype=torch.uint8)
    flat = Sample("a", grey, {}, {})
    values = {int(transform(flat, seeded(seed)).image[0, 0, 0]) for seed in range(60)}
    assert 250 in values
    assert max(values) == 255
    assert min(values) >= 218
