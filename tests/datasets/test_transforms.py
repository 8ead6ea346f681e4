"""Transforms move image and labels together, and change colours by the published formulas."""

import colorsys
from dataclasses import replace

import jsonargparse
import pytest
import torch
from tests.support_samples import CAMERA, make_sample, seeded
from torch import Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.datasets.transforms import (
    CutDepth,
    DropPrompt,
    HorizontalFlip,
    HueSaturationValue,
    RandomBrightnessContrast,
    RandomCrop,
    RandomGamma,
    Resize,
    crop,
    hsv_to_rgb,
    resize,
    rgb_to_hsv,
)
from diffsight.errors import InputError
from diffsight.types import Camera

CHAIN: list[AbstractTransform] = [
    CutDepth(),
    HorizontalFlip(),
    RandomCrop(height=24, width=24),
    RandomBrightnessContrast(),
    RandomGamma(),
    HueSaturationValue(),
]


def assert_labels_match_image(sample: Sample) -> None:
    """Check that the labels are copies of the image channels, as in ``make_sample``."""
    assert torch.equal(sample.labels["depth_m"], sample.image[:1].float() / 25.5)
    assert torch.equal(sample.labels["semantic"], sample.image[1].long())
    for mask in sample.valid.values():
        assert torch.equal(mask, sample.image[2] > 25)
    assert sample.prompt == "kitchen"


def as_bytes(sample: Sample) -> bytes:
    tensors: list[Tensor] = [sample.image, *sample.labels.values(), *sample.valid.values()]
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)


def apply_all(chain: list[AbstractTransform], sample: Sample, seed: int) -> Sample:
    """Apply the transforms with one seeded generator."""
    generator = seeded(seed)
    for change in chain:
        sample = change(sample, generator)
    return sample


def test_the_same_seed_gives_the_same_bytes_and_keeps_the_original() -> None:
    original, before = make_sample(), as_bytes(make_sample())
    torch.manual_seed(1)
    first = [as_bytes(apply_all(CHAIN, original, seed)) for seed in range(20)]
    torch.manual_seed(2)
    assert first == [as_bytes(apply_all(CHAIN, original, seed)) for seed in range(20)]
    assert len(set(first)) == 20
    assert as_bytes(original) == before


@pytest.mark.parametrize("change", [change for change in CHAIN if type(change) is not RandomCrop])
def test_samples_are_changed_with_the_probability(change: AbstractTransform) -> None:
    sample, before = make_sample(), make_sample().image
    changed = sum(
        not torch.equal(change(sample, seeded(seed)).image, before) for seed in range(400)
    )
    expected = 0.25 if isinstance(change, CutDepth) else 0.5
    assert changed / 400 == pytest.approx(expected, abs=0.08)


def test_flip_mirrors_everything_and_two_flips_cancel() -> None:
    sample, flip = make_sample(), HorizontalFlip(probability=1.0)
    once = flip(sample, seeded(0))
    assert_labels_match_image(once)
    assert torch.equal(once.image, sample.image.flip(-1))
    assert torch.equal(once.labels["normals"][0], -sample.labels["normals"][0].flip(-1))
    assert torch.equal(once.labels["normals"][1:], sample.labels["normals"][1:].flip(-1))
    assert once.camera == Camera(fx_px=50.0, fy_px=60.0, cx_px=21.0, cy_px=8.0)
    twice = flip(once, seeded(0))
    assert as_bytes(twice) == as_bytes(sample)
    assert twice.camera == CAMERA


def test_flip_refuses_sentences_about_left_and_right() -> None:
    sample = replace(make_sample(), sentences=("the chair to the left of the table",))
    with pytest.raises(InputError, match="does not fit a sentence with left or right"):
        HorizontalFlip(probability=1.0)(sample, seeded(0))


def test_random_crops_reach_every_position_and_move_the_principal_point() -> None:
    sample = make_sample()
    columns = torch.arange(32).expand(1, 24, 32).float()
    rows = torch.arange(24)[:, None].expand(1, 24, 32).float()
    corners = set()
    for seed in range(300):
        window = RandomCrop(height=22, width=30)(sample, seeded(seed))
        assert window.image.shape == (3, 22, 30)
        assert_labels_match_image(window)
        assert window.camera is not None
        left, top = CAMERA.cx_px - window.camera.cx_px, CAMERA.cy_px - window.camera.cy_px
        corners.add((top, left))
        assert torch.equal(
            window.image, sample.image[:, int(top) : int(top) + 22, int(left) : int(left) + 30]
        )
    assert corners == {(top, left) for top in (0, 1, 2) for left in (0, 1, 2)}
    labelled = Sample("a", sample.image, {"x": columns, "y": rows}, {})
    window = crop(labelled, 3, 5, 16, 16)
    assert window.labels["x"][0, 0, 0] == 5
    assert window.labels["y"][0, 0, 0] == 3


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"24 x 32 .*smaller than the crop of 480 x 480.*Resize"):
        RandomCrop(height=480, width=480)(make_sample(), seeded(0))


def test_resize_keeps_label_values_and_adjusts_the_camera() -> None:
    sample = make_sample()
    scaled = Resize(height=48, width=96)(sample, seeded(0))
    assert scaled.image.shape == (3, 48, 96)
    assert scaled.labels["depth_m"].shape == (1, 48, 96)
    assert torch.equal(scaled.labels["depth_m"][..., ::2, 1::3], sample.labels["depth_m"])
    assert torch.equal(scaled.valid["depth_m"][::2, 1::3], sample.valid["depth_m"])
    assert scaled.camera is not None
    # the ray through the left edge is the same before and after scaling
    assert (-0.5 - scaled.camera.cx_px) / scaled.camera.fx_px == pytest.approx(-10.5 / 50)
    assert (47.5 - scaled.camera.cy_px) / scaled.camera.fy_px == pytest.approx(15.5 / 60)
    assert as_bytes(resize(sample, 24, 32)) == as_bytes(sample)


def test_resize_averages_pixels_when_it_shrinks_an_image() -> None:
    stripes = torch.zeros(3, 32, 32, dtype=torch.uint8)
    stripes[..., ::2] = 200
    small = resize(Sample("a", stripes, {}, {}), 16, 8)
    assert (small.image[..., 1:-1].int() - 100).abs().max() <= 1


def test_cutdepth_pastes_depth_into_the_image_and_black_where_it_is_invalid() -> None:
    sample = make_sample()
    widths = []
    for seed in range(60):
        cut = CutDepth(probability=1.0, max_depth_m=8.0)(sample, seeded(seed))
        changed = (cut.image != sample.image).any(0).any(0).nonzero().flatten()
        first, last = int(changed[0]), int(changed[-1])
        widths.append(last - first + 1)
        assert last - first + 1 <= max(1, 0.75 * (32 - first))
        strip = cut.image[..., first : last + 1]
        depth_m = sample.labels["depth_m"][0, :, first : last + 1]
        valid = sample.valid["depth_m"][:, first : last + 1]
        expected = torch.where(valid, (depth_m / 8 * 255).clamp(max=255).floor(), 0)
        assert ((strip.float() - expected).abs() <= 1).all()
        assert torch.equal(cut.image[..., :first], sample.image[..., :first])
        assert torch.equal(cut.image[..., last + 1 :], sample.image[..., last + 1 :])
        assert cut.labels is sample.labels
    assert min(widths) == 1
    assert max(widths) > 12


def test_recipes_may_use_whole_numbers_for_floats() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--chain", type=list[AbstractTransform])
    module = "diffsight.datasets.transforms"
    calls = [
        {"class_path": f"{module}.HueSaturationValue", "init_args": {"hue": 20, "probability": 1}},
        {"class_path": f"{module}.CutDepth", "init_args": {"max_depth_m": 10, "probability": 1}},
    ]
    chain = parser.instantiate(parser.parse_object({"chain": calls})).chain
    assert not torch.equal(apply_all(chain, make_sample(), 0).image, make_sample().image)


def test_cutdepth_without_depth_is_refused() -> None:
    with pytest.raises(InputError, match="sample a has no depth_m: remove CutDepth"):
        CutDepth()(Sample("a", make_sample().image, {}, {}), seeded(0))


RAMP = torch.arange(256, dtype=torch.uint8).expand(3, 16, 256)


def test_brightness_and_contrast_are_linear_and_truncated() -> None:
    generator = seeded(5)
    _, contrast, brightness = torch.rand(3, dtype=torch.float64, generator=generator).tolist()
    change = RandomBrightnessContrast(brightness=0.2, contrast=0.2, probability=1.0)
    image = change(Sample("a", RAMP, {}, {}), seeded(5)).image
    gain, offset = 1 + 0.4 * contrast - 0.2, 255 * (0.4 * brightness - 0.2)
    expected = [min(255, max(0, int(gain * v + offset))) for v in range(256)]
    assert image[0, 0].tolist() == expected


def test_gamma_is_a_power_of_the_relative_level() -> None:
    _, draw = torch.rand(2, dtype=torch.float64, generator=seeded(3)).tolist()
    image = RandomGamma(probability=1.0)(Sample("a", RAMP, {}, {}), seeded(3)).image
    expected = [int((v / 255) ** (0.8 + 0.4 * draw) * 255) for v in range(256)]
    assert (image[0, 0].int() - torch.tensor(expected)).abs().max() <= 1
    assert image[0, 0, [0, 255]].tolist() == [0, 255]
    same = RandomGamma(low_percent=100.0, high_percent=100.0, probability=1.0)
    assert (same(Sample("a", RAMP, {}, {}), seeded(0)).image.int() - RAMP.int()).abs().max() <= 1


def test_rgb_to_hsv_matches_colorsys_in_8_bits() -> None:
    image = torch.randint(256, (3, 24, 24), generator=seeded(0), dtype=torch.uint8)
    image[:, 0] = image[0, 0]  # grays
    pixels = rgb_to_hsv(image).flatten(1).T.tolist()
    for (red, green, blue), (hue, saturation, value) in zip(
        image.flatten(1).T.tolist(), pixels, strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        assert min(abs(hue - 180 * h), 180 - abs(hue - 180 * h)) <= 0.501
        assert abs(saturation - 255 * s) <= 0.501
        assert value == round(255 * v)


def test_hsv_to_rgb_matches_colorsys_truncated_to_whole_numbers() -> None:
    hsv = torch.stack(
        [
            torch.randint(180, (24, 24), generator=seeded(0)),
            torch.randint(256, (24, 24), generator=seeded(1)),
            torch.randint(256, (24, 24), generator=seeded(2)),
        ]
    ).float()
    pixels = hsv_to_rgb(hsv).flatten(1).T.tolist()
    for (h, s, v), colour in zip(hsv.flatten(1).T.tolist(), pixels, strict=True):
        exact = colorsys.hsv_to_rgb(h / 180, s / 255, v / 255)
        for channel, fraction in zip(colour, exact, strict=True):
            assert -1.001 < channel - 255 * fraction <= 0.001
    assert (hsv_to_rgb(rgb_to_hsv(RAMP)) == RAMP).all()


def test_a_hue_shift_changes_colours_but_not_grays() -> None:
    red = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)
    hues = set()
    for seed in range(40):
        change = HueSaturationValue(hue=20.0, saturation=0.0, value=0.0, probability=1.0)
        turned = change(Sample("a", red, {}, {}), seeded(seed)).image
        hue, saturation, value = rgb_to_hsv(turned)[:, 0, 0].tolist()
        assert (saturation, value) == (255, 200)
        assert hue <= 20 or hue >= 159
        hues.add(hue)
        assert torch.equal(change(Sample("a", RAMP, {}, {}), seeded(seed)).image, RAMP)
    assert len(hues) > 15


def test_drop_prompt_changes_only_the_prompt() -> None:
    sample = replace(make_sample(), prompt="kitchen")
    assert DropPrompt(probability=0.0)(sample, seeded(0)) is sample
    assert DropPrompt(probability=1.0)(sample, seeded(0)) == replace(sample, prompt=None)
    dropped = [DropPrompt()(sample, seeded(seed)).prompt is None for seed in range(200)]
    assert 70 < sum(dropped) < 130
