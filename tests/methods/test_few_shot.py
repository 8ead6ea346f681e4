"""FewShot: what is frozen, what is computed once, what its maps are, and that concepts learn."""

import math

import pytest
import torch
from tests.support import images

from diffsight.backbones import ConceptRequest, StableDiffusion
from diffsight.backbones.concept_maps import ConceptRecorder
from diffsight.backbones.stable_diffusion import add_noise
from diffsight.errors import InputError
from diffsight.heads import Codebook
from diffsight.methods import FewShot
from diffsight.prompts import Concepts
from diffsight.types import Draws, Inputs

# the sixteen layers and a head width of 16, in seconds
SMALL = {
    "unet": {
        "block_out_channels": (16, 16, 32, 32),
        "norm_num_groups": 8,
        "cross_attention_dim": 12,
        "attention_head_dim": (1, 1, 2, 2),
    },
    "vae": {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 8},
}


def build(size=1, classes=5, **options):
    torch.manual_seed(0)
    centres = torch.linspace(1, 4, classes)[:, None]
    codebook = None if size is None else Codebook(centres, torch.ones(1), size=size)
    backbone = StableDiffusion(SMALL)
    return FewShot(num_outputs=classes, backbone=backbone, codebook=codebook, **options)


@torch.no_grad()
@pytest.mark.parametrize("hw", [(32, 48), (33, 21)])
def test_a_distribution_per_pixel_and_its_expected_value(hw):
    method = build().eval()
    raw = method(Inputs(images(2, *hw)))
    assert raw.maps.shape == (2, 5, *hw)
    torch.testing.assert_close(raw.maps.sum(dim=1), torch.ones(2, *hw))
    values = method.codebook(None, 2)[0, :, 0]
    expected = (raw.maps * values[:, None, None]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(raw.auxiliary["value"], expected)
    assert build(None).eval()(Inputs(images(2, *hw))).auxiliary == {}


@torch.no_grad()
def test_maps_by_hand():
    """Noise of step 200, mean of the layers brought to one size, then divided by the sum."""
    method = build().eval()
    inputs = Inputs(images(2, 32, 48))
    draws = Draws((3, 8))
    latent = method.backbone.vae(inputs.image * 2 - 1)
    noised = 0.7537**0.5 * latent + (1 - 0.7537) ** 0.5 * draws.normal(0, tuple(latent.shape[1:]))
    recorder = ConceptRecorder(ConceptRequest())
    steps = torch.full((2,), 200)
    method.backbone.trunk(noised, method.concepts.rows.expand(2, -1, -1), steps, recorder)
    maps = [torch.nn.functional.interpolate(m, (32, 48), mode="bilinear") for m in recorder.close()]
    total = sum(maps)
    torch.testing.assert_close(
        method(inputs, draws=draws).maps, total / total.sum(dim=1, keepdim=True), atol=1e-4, rtol=0
    )


def test_noise_schedule():
    """Spec 1.1: the signal's share of the variance."""
    for step, share in ((5, 0.9948), (50, 0.9516), (100, 0.8942), (200, 0.7537)):
        one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        steps = torch.tensor([step])
        assert float(add_noise(one, zero, steps)) ** 2 == pytest.approx(share, abs=5e-5)
        assert float(add_noise(zero, one, steps)) ** 2 == pytest.approx(1 - share, abs=5e-5)
        half = add_noise(zero.bfloat16(), one.bfloat16(), steps)
        assert float(half) == pytest.approx((1 - share) ** 0.5, rel=0.01)


@torch.no_grad()
def test_predictions_depend_on_the_pixels_alone():
    method = build().eval()
    batch = images(3, 32, 32)
    together = method(Inputs(batch)).maps
    for i in (2, 0, 1):
        alone = method(Inputs(batch[i : i + 1])).maps[0]
        assert float((alone - together[i]).abs().max() / together[i].abs().max()) < 1e-5
    assert len(set(Draws.of_content(batch).seeds)) == 3


def test_training_steps_are_drawn_from_the_whole_range(monkeypatch):
    method, seen = build().train(), []
    inputs = method.encode(Inputs(images(1, 32, 32)))
    trunk = method.backbone.trunk
    monkeypatch.setattr(
        method.backbone,
        "trunk",
        lambda z, c, steps, r: seen.extend(steps.tolist()) or trunk(z, c, steps, r),
    )
    rows = {name: value.expand(400, *value.shape[1:]) for name, value in inputs.cached.items()}
    with torch.no_grad():
        method(
            Inputs(inputs.image.expand(400, -1, -1, -1), cached=rows),
            draws=Draws(tuple(range(400))),
        )
    assert 5 <= min(seen) < 10
    assert 195 < max(seen) <= 200
    assert 90 < sum(seen) / 400 < 115
    steps = Draws(tuple(range(2000))).integers(1, 5, 200)
    assert (int(steps.min()), int(steps.max())) == (5, 200)


def test_cached_results_change_nothing():
    method = build().eval()
    inputs = Inputs(images(2, 32, 32))
    with torch.no_grad():
        direct = method(inputs).maps
        cached = method.encode(inputs)
        method.backbone.vae = None
        assert torch.equal(method(cached).maps, direct)


def test_permuted_concepts_permute_the_classes():
    method = build().eval()
    order = torch.tensor([3, 0, 4, 1, 2])
    inputs = Inputs(images(1, 32, 32))
    with torch.no_grad():
        before = method(inputs).maps
        method.concepts.rows.copy_(method.concepts.rows[order])
        torch.testing.assert_close(method(inputs).maps, before[:, order], atol=1e-6, rtol=1e-4)


def test_only_concepts_and_codebook_learn():
    method = build().train()
    raw = method(Inputs(images(2, 32, 32)), draws=Draws((1, 2)))
    (raw.maps[:, 0].log().mean() + raw.auxiliary["value"].square().mean()).backward()
    learning = {name for name, p in method.named_parameters() if p.requires_grad}
    assert learning == {"concepts.rows", "codebook.tables"}
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (name in learning), name
    assert bool(method.concepts.rows.grad.abs().min(dim=1).values.gt(0).all())


def test_concepts_learn_two_images():
    # the self-attention of a random UNet looks everywhere and would wash all maps out
    method = build(None, classes=2, maps=ConceptRequest(self_attention=False)).train()
    pictures = images(2, 32, 32) * 0.3
    pictures[0, 0, :, :12] += 0.7  # red on the left, and at the top
    pictures[1, 0, :12] += 0.7
    label = (pictures[:, 0] > 0.5).long()
    method.backbone.latent_scale = 1 / float(method.backbone.encode(pictures).std())
    inputs = method.encode(Inputs(pictures))
    optimiser = torch.optim.Adam(method.concepts.parameters(), 0.1)
    losses = []
    for step in range(80):
        optimiser.zero_grad()
        raw = method(inputs, draws=Draws((2 * step, 2 * step + 1)))
        loss = torch.nn.functional.nll_loss(raw.maps.log(), label)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    share = 12 / 32
    blind = -share * math.log(share) - (1 - share) * math.log(1 - share)  # the best constant map
    assert sum(losses[-10:]) / 10 < 0.9 * blind


def test_several_tables_need_features():
    torch.manual_seed(0)
    codebook = Codebook(torch.zeros(5, 1), torch.ones(1), size=10, features=8)
    with pytest.raises(InputError, match="give vision"):
        FewShot(num_outputs=5, backbone=StableDiffusion(SMALL), codebook=codebook)


@pytest.mark.parametrize(
    ("classes", "d", "expected"), [(20, 1, 28360), (40, 2, 49440), (50, 3, 60380)]
)
def test_learned_numbers_of_the_paper(classes, d, expected):
    """Spec 1.9, the totals for Stable Diffusion 2.1 and CLIP ViT-L/14."""
    parts = (
        Concepts(classes, dim=1024),
        Codebook(torch.zeros(classes, d), torch.ones(d), features=768),
    )
    assert sum(p.numel() for part in parts for p in part.parameters()) == expected
