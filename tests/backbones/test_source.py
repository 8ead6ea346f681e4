"""BackboneSource: names, shared and copied parts, the CLIP tower, and refused sources."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.support_weights import have_equal_tensors, move_to_hub_cache
from transformers import ConvNextConfig, ConvNextModel

from diffsight import assets
from diffsight.backbones import BackboneSource, ClipVision
from diffsight.backbones.source import CLIP
from diffsight.errors import InputError
from diffsight.methods import FewShot
from diffsight.model import DenseModel
from diffsight.tasks import Depth, Segmentation


@pytest.fixture(scope="module")
def tiny() -> BackboneSource:
    return BackboneSource("tiny")


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    ConvNextModel(ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)).save_pretrained(tmp_path)
    return tmp_path


def test_the_embedded_model_is_a_diffusion_model_with_clip(tiny: BackboneSource) -> None:
    assert (tiny.name, tiny.is_local, tiny.is_diffusion, tiny.has_clip) == (
        "tiny",
        False,
        True,
        True,
    )
    assert tiny.folder == assets.find("tiny")
    assert tiny.short_side_px == 128


def test_frozen_parts_are_loaded_once(tiny: BackboneSource) -> None:
    assert tiny.diffusion is tiny.diffusion
    assert tiny.clip() is tiny.clip()
    for part in (tiny.diffusion, tiny.clip()):
        assert part.source == "tiny"
        assert not any(p.requires_grad for p in part.parameters())


def test_every_trained_diffusion_model_is_a_new_copy(tiny: BackboneSource) -> None:
    first, second = (tiny.fresh_diffusion(trainable=("unet",)) for _ in range(2))
    assert first is not second
    assert all(p.requires_grad for p in first.unet.parameters())
    assert not any(p.requires_grad for p in first.vae.parameters())
    assert torch.equal(first.unet.conv_in.weight, tiny.diffusion.unet.conv_in.weight)
    assert first.latent_scale == tiny.diffusion.latent_scale
    assert tiny.fresh_diffusion(trainable=(), latent_scale=0.5).latent_scale == 0.5


def test_the_name_of_a_folder_is_its_absolute_path(vision: Path) -> None:
    source = BackboneSource(vision)
    assert source.is_local
    assert source.name == str(vision.resolve())
    assert not source.is_diffusion
    assert not source.has_clip
    assert source.vision is source.vision
    assert not any(p.requires_grad for p in source.vision.parameters())


def test_a_vision_backbone_is_refused_as_diffusion_model(vision: Path) -> None:
    with pytest.raises(InputError, match=r"no diffusion model .*feature_head, linear_probe"):
        BackboneSource(vision).fresh_diffusion(trainable=())


@pytest.fixture
def stable_diffusion(pipeline_folder: Path, tmp_path: Path) -> BackboneSource:
    """Return a folder without a CLIP vision tower, like those of Stable Diffusion."""
    shutil.copytree(pipeline_folder, tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / "image_encoder")
    return BackboneSource(tmp_path / "sd")


def test_stable_diffusion_uses_the_clip_tower_of_the_paper(
    stable_diffusion: BackboneSource,
    pipeline_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(pipeline_folder / "image_encoder", tmp_path / "clip")
    move_to_hub_cache(tmp_path / "clip", tmp_path / "hub", CLIP)
    assert stable_diffusion.default_clip == CLIP
    clip = stable_diffusion.clip()
    assert (clip.source, clip.revision) == (CLIP, "a" * 40)
    assert have_equal_tensors(clip.state_dict(), ClipVision(pipeline_folder).state_dict())
    depth = Depth(max_depth_m=None, bins=3).fitted(torch.linspace(0.5, 4, 200)[:, None])
    model = DenseModel(task=depth, method=FewShot.from_backbone(stable_diffusion))
    assert model.method.vision is clip
    assert model.method.codebook.size == 10
    assert BackboneSource(pipeline_folder).default_clip == str(pipeline_folder.resolve())
    assert BackboneSource("tiny").default_clip == "tiny"


def test_without_a_clip_tower_the_codebook_has_one_table(
    stable_diffusion: BackboneSource, caplog: pytest.LogCaptureFixture
) -> None:
    """A segmentation task has no codebook, so no CLIP tower is loaded for it."""
    caplog.set_level("INFO")
    builder = FewShot.from_backbone(stable_diffusion)
    DenseModel(task=Segmentation(("wall", "door")), method=builder)
    assert "default_clip" not in vars(stable_diffusion)
    depth = Depth(max_depth_m=None, bins=3).fitted(torch.linspace(0.5, 4, 200)[:, None])
    model = DenseModel(task=depth, method=builder)
    assert model.method.codebook.size == 1
    (message,) = caplog.messages
    assert message.startswith("the paper mixes a codebook of 10 tables by CLIP ViT-L/14, but ")
    assert f"{CLIP} cannot be fetched: a codebook of 1 table is trained" in message
    with pytest.raises(InputError, match=r"of 10 tables is mixed .* cannot be fetched: go online"):
        FewShot.from_backbone(stable_diffusion, codebook=10)(output=depth.outputs[0])


def test_files_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        BackboneSource("nothing-of-that-name")
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(InputError, match=r"file.safetensors: not a complete safetensors file"):
        BackboneSource(tmp_path / "file.safetensors").fresh_diffusion(trainable=())
