"""Patch tokens and the linear probe on them."""

import pytest
import torch
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from diffsight.backbones import PatchTokens
from diffsight.errors import InputError
from diffsight.methods import LinearProbe
from diffsight.types import Inputs

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def folder(request, tmp_path_factory):
    """A vision transformer of random weights."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "clip":
        config = CLIPVisionConfig(**SHAPE, image_size=32, intermediate_size=32, projection_dim=8)
        CLIPVisionModelWithProjection(config).save_pretrained(place)
    else:
        Dinov2Model(Dinov2Config(**SHAPE, image_size=32, mlp_ratio=2)).save_pretrained(place)
    return place


@pytest.mark.parametrize(("side", "grid"), [(None, 4), (48, 6)])
def test_a_token_per_patch_in_rows(folder, side, grid) -> None:
    vision = PatchTokens(folder, side=side)
    image = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(1))
    tokens = vision(image)
    assert tokens.shape == (2, 16, grid, grid)
    pixels = (vision.side, vision.side)
    small = functional.interpolate(image, pixels, mode="bicubic", antialias=True).clamp(0, 1)
    small = (small - vision.squeeze.mean) / vision.squeeze.std
    rows = vision.tower(pixel_values=small, **vision.options).last_hidden_state[:, 1:]
    torch.testing.assert_close(tokens[:, :, 1, 2], rows[:, grid + 2])


def test_one_layer_learns_and_gives_the_expected_value(folder) -> None:
    vision = PatchTokens(folder)
    centres = torch.tensor([[0.0], [1.0], [5.0]])
    probe = LinearProbe(num_outputs=3, vision=vision, centres=centres)
    assert sum(p.numel() for p in probe.parameters() if p.requires_grad) == 16 * 3 + 3
    image = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(1))
    raw = probe(Inputs(image))
    assert raw.maps.shape == (2, 3, 40, 60)
    torch.testing.assert_close(raw.maps.sum(dim=1), torch.ones(2, 40, 60))
    value = (raw.maps * centres[None, :, :, None]).sum(dim=1)
    torch.testing.assert_close(raw.auxiliary["value"][:, 0], value)
    cached = probe(probe.encode(Inputs(image)))
    torch.testing.assert_close(cached.maps, raw.maps)
    raw.auxiliary["value"].mean().backward()
    assert all(p.grad is None for p in vision.parameters())


def test_what_is_no_vision_transformer_is_refused(tmp_path, folder) -> None:
    with pytest.raises(InputError, match="no vision transformer there"):
        PatchTokens(tmp_path)
    with pytest.raises(InputError, match="takes multiples of 8 pixels"):
        PatchTokens(folder, side=20)
