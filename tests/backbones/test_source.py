"""A pretrained model by its name: what is shared, what is a copy, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import ConvNextConfig, ConvNextModel

from diffsight import assets
from diffsight.backbones import BackboneSource
from diffsight.errors import InputError


@pytest.fixture(scope="module")
def tiny() -> BackboneSource:
    return BackboneSource("tiny")


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    ConvNextModel(ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)).save_pretrained(tmp_path)
    return tmp_path


def test_the_embedded_model(tiny: BackboneSource) -> None:
    assert (tiny.name, tiny.is_local, tiny.is_diffusion, tiny.has_clip) == (
        "tiny",
        False,
        True,
        True,
    )
    assert tiny.folder == assets.find("tiny")
    assert tiny.short_side_px == 64


def test_frozen_parts_are_loaded_once(tiny: BackboneSource) -> None:
    assert tiny.diffusion is tiny.diffusion
    assert tiny.clip() is tiny.clip()
    for part in (tiny.diffusion, tiny.clip()):
        assert part.source == "tiny"
        assert not any(p.requires_grad for p in part.parameters())


def test_what_learns_is_a_copy(tiny: BackboneSource) -> None:
    first, second = (tiny.fresh_diffusion(trainable=("unet",)) for _ in range(2))
    assert first is not second
    assert all(p.requires_grad for p in first.unet.parameters())
    assert not any(p.requires_grad for p in first.vae.parameters())
    assert torch.equal(first.unet.conv_in.weight, tiny.diffusion.unet.conv_in.weight)
    assert first.latent_scale == tiny.diffusion.latent_scale
    assert tiny.fresh_diffusion(trainable=(), latent_scale=0.5).latent_scale == 0.5


def test_a_folder_is_known_by_its_whole_path(vision: Path) -> None:
    source = BackboneSource(vision)
    assert source.is_local
    assert source.name == str(vision.resolve())
    assert not source.is_diffusion
    assert not source.has_clip
    assert source.vision is source.vision
    assert not any(p.requires_grad for p in source.vision.parameters())


def test_a_vision_backbone_is_no_diffusion_model(vision: Path) -> None:
    with pytest.raises(InputError, match=r"no diffusion model .*feature_head, linear_probe"):
        BackboneSource(vision).fresh_diffusion(trainable=())


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        BackboneSource("nothing-of-that-name")
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(InputError, match=r"file.safetensors: not a complete safetensors file"):
        BackboneSource(tmp_path / "file.safetensors").fresh_diffusion(trainable=())
