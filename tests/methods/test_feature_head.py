"""The light head: what it reads, what a training step hides, how many numbers learn."""

import pytest
import torch
from tests.backbones.conftest import SMALL
from tests.support import images

from diffsight.backbones import StableDiffusion
from diffsight.methods import FeatureHead
from diffsight.methods.feature_head import _places
from diffsight.types import Draws, Inputs


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    torch.manual_seed(0)
    return StableDiffusion(SMALL, trainable=())


def head(backbone: StableDiffusion, classes: int = 3, **options) -> FeatureHead:
    torch.manual_seed(1)
    context = torch.randn(1, 2, backbone.context_dim)
    centres = torch.linspace(0, 1, classes)[:, None]
    return FeatureHead(
        num_outputs=classes, backbone=backbone, context=context, centres=centres, **options
    )


def test_a_step_hides_whole_channels_by_its_seed_alone(backbone) -> None:
    method = head(backbone).train()
    inputs = method.encode(Inputs(images(2, 64, 64)))
    first = method(inputs, draws=Draws((5, 6))).maps
    torch.manual_seed(99)
    assert torch.equal(first, method(inputs, draws=Draws((5, 6))).maps)
    assert not torch.allclose(first, method(inputs, draws=Draws((5, 7))).maps)
    draws = Draws(tuple(range(400)))
    kept = method._kept(draws, 0, 50)
    assert kept.shape == (400, 50, 1, 1)
    blind = kept.amax(dim=(1, 2, 3)) == 0
    assert float(blind.float().mean()) == pytest.approx(0.2, abs=0.05)
    assert torch.equal(blind, method._kept(draws, 3, 50).amax(dim=(1, 2, 3)) == 0)  # all levels
    assert float((kept[~blind] == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(kept.max()) == pytest.approx(1 / 0.7)


def test_one_place_alone_tells_no_deviation(backbone) -> None:
    """The coarsest level of one small image."""
    method = head(backbone).eval()
    one = method.encode(Inputs(images(1, 32, 32)))
    assert one.cached["level3"].shape[-2:] == (1, 1)
    method.standardise([one])
    assert bool((method.get_buffer("scale3") > 0.99).all())
    assert bool((method.get_buffer("scale3") < 1).all())
    assert bool(method(one).maps.isfinite().all())


def test_place_and_constant_give_their_shares_of_an_answer(backbone) -> None:
    method, inputs = head(backbone).eval(), Inputs(images(2, 48, 80))
    seen = method(inputs).maps
    method.shares = (1.0, 0.0)
    alone = method(inputs).maps
    torch.testing.assert_close(alone[0], alone[1])  # whatever the image
    with torch.no_grad():
        for level in range(4):  # as in a training step that hides all
            method.get_buffer(f"scale{level}").zero_()
        method.shares = (0.0, 0.0)
        torch.testing.assert_close(method(inputs).maps, alone)
    method = head(backbone, place_share=0.25, constant_share=0.5).eval()
    prior = torch.tensor([0.5, 0.2, 0.3])
    method.prior.copy_(prior)
    mixed = method(inputs)
    expected = 0.25 * seen + 0.25 * alone + 0.5 * prior[:, None, None]
    torch.testing.assert_close(mixed.maps, expected)
    centres = torch.linspace(0, 1, 3)
    value = (mixed.maps * centres[:, None, None]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(mixed.auxiliary["value"], value)
    one, other = method.mixtures(inputs, [(0.0, 0.0), (0.25, 0.5)])
    torch.testing.assert_close(one.maps, seen)
    torch.testing.assert_close(other.maps, expected)
    torch.testing.assert_close(method.train()(inputs).maps, seen)


def test_an_answer_hides_nothing_and_does_not_depend_on_its_batch(backbone) -> None:
    method = head(backbone).eval()
    image = images(2, 48, 80)
    both = method(Inputs(image), draws=Draws((1, 2))).maps
    torch.testing.assert_close(both, method(Inputs(image)).maps)
    torch.testing.assert_close(both[1:], method(Inputs(image[1:])).maps, rtol=1e-5, atol=1e-6)
    assert both.shape == (2, 3, 48, 80)


def test_probabilities_sum_to_one_in_half_precision_too(backbone) -> None:
    """Labels far from zero, such as kelvins, would be shifted by what is missing."""
    method = head(backbone).eval()
    with torch.autocast("cpu", torch.bfloat16):
        raw = method(Inputs(images(1, 48, 80)))
    assert raw.maps.dtype == torch.float32
    torch.testing.assert_close(raw.maps.sum(dim=1), torch.ones(1, 48, 80), rtol=0, atol=1e-5)


def test_the_place_counts_in_the_image_not_in_its_padding(backbone) -> None:
    method = head(backbone).eval()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.startswith("project"):
                parameter.zero_()
    wide = method(Inputs(images(1, 64, 96))).maps
    assert wide.std() > 1e-4  # nothing but the place is left
    rows, columns = _places((2, 6), (2.0, 5.0))[0, :2]  # the sixth column is padding
    torch.testing.assert_close(rows[:, 0], torch.tensor([-0.5, 0.5]))
    torch.testing.assert_close(columns[0], torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8, 1.2]))


@pytest.mark.parametrize("classes", [2, 50, 200])
def test_at_most_seventy_thousand_numbers_learn(backbone, classes) -> None:
    method = head(backbone, classes)
    learning = [n for n, p in method.named_parameters() if p.requires_grad]
    assert not [n for n in learning if n.startswith("backbone.")]
    assert sum(method.get_parameter(n).numel() for n in learning) <= 70_000
