"""Conditioned: a diffusion model with a fixed prompt as a backbone."""

import pytest
import torch
from tests.contracts import BackboneContract
from tests.support import SMALL, images

from diffsight.backbones import StableDiffusion
from diffsight.errors import InputError
from diffsight.methods import Conditioned
from diffsight.prompts import Unprompted


def build() -> Conditioned:
    torch.manual_seed(0)
    diffusion = StableDiffusion(SMALL)
    prompts = Unprompted(3, dim=diffusion.context_dim)
    prompts.rows = torch.randn(3, diffusion.context_dim)
    return Conditioned(diffusion, prompts)


class TestConditioned(BackboneContract):
    def build(self) -> Conditioned:
        return build()


def test_features_come_from_one_pass_without_noise() -> None:
    backbone = build().eval()
    image = images(2, 64, 128)
    diffusion = backbone.backbone
    with torch.no_grad():
        pyramid = backbone(image)
        expected = diffusion.features(
            diffusion.encode(image), backbone.prompts.rows.expand(2, -1, -1), torch.ones(2).long()
        )
    assert all(torch.equal(a, b) for a, b in zip(pyramid.features, expected, strict=True))
    assert pyramid.covered_hw(0) == (64, 128)


def test_prompts_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="vectors of 8 numbers, the backbone takes 24"):
        Conditioned(StableDiffusion(SMALL), Unprompted(3, dim=8))
