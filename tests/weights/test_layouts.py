"""Every layout in which weights are published is read to the same tensors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support_weights import (
    LAYOUTS,
    have_equal_tensors,
    move_to_hub_cache,
    rewrite,
    rewrite_in_layout,
    write_original_file,
)
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    ConvNextConfig,
    ConvNextModel,
)

from diffsight.backbones import BackboneSource, ClipVision, VisionBackbone, architectures
from diffsight.errors import InputError
from diffsight.prompts import Unprompted
from diffsight.prompts.encoder import load_text_encoder, load_text_model

TOWER_SIZES = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 1}
TOWER_SIZES |= {"num_hidden_layers": 2, "projection_dim": 8}
VOCABULARY = {"vocab_size": 40, "bos_token_id": 38, "eos_token_id": 39, "pad_token_id": 39}


def load_states(source: str | Path) -> dict[str, Any]:
    """Return the state dicts of all networks of a Stable Diffusion model."""
    backbone = BackboneSource(source)
    return {
        "diffusion": backbone.diffusion.state_dict(),
        "clip": backbone.clip().state_dict(),
        "text": load_text_model(source).state_dict(),
    }


def assert_states(source: str | Path, expected: dict[str, Any]) -> None:
    for part, state in load_states(source).items():
        assert have_equal_tensors(state, expected[part]), part


@pytest.fixture(scope="module")
def expected(pipeline_folder: Path) -> dict[str, Any]:
    return load_states(pipeline_folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_diffusers_folder_is_read_in_every_layout(
    pipeline: Path, expected: dict[str, Any], layout: str
) -> None:
    assert_states(rewrite_in_layout(pipeline, layout), expected)


@pytest.mark.parametrize("layout", ["fp16", "non_ema", "sharded fp16", "pickle"])
def test_a_model_in_the_hub_cache_is_read_in_every_layout(
    pipeline: Path, hub_cache: Path, expected: dict[str, Any], layout: str
) -> None:
    """It is loaded by its id, and by its folder in the cache."""
    model = move_to_hub_cache(rewrite_in_layout(pipeline, layout), hub_cache)
    assert_states("owner/name", expected)
    assert_states(model, expected)
    assert BackboneSource("owner/name").revision == "a" * 40


def test_parts_may_have_different_layouts(pipeline: Path, expected: dict[str, Any]) -> None:
    for part, layout in zip(("unet", "vae", "text_encoder"), LAYOUTS, strict=False):
        rewrite_in_layout(pipeline / part, layout)
    assert_states(pipeline, expected)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Return a CLIP model with both towers in one folder, as in OpenAI's repositories."""
    torch.manual_seed(0)
    vision = {**TOWER_SIZES, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config={**TOWER_SIZES, **VOCABULARY}, vision_config=vision, projection_dim=8
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.mark.parametrize("load", [ClipVision, load_text_model])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clip_model_is_read_in_every_layout(
    clip: Path, layout: str, load: Callable[..., nn.Module]
) -> None:
    states = [load(clip).state_dict(), load(rewrite_in_layout(clip, layout)).state_dict()]
    assert have_equal_tensors(*states)


@pytest.mark.parametrize("load", [ClipVision, load_text_model])
def test_a_clip_model_in_the_hub_cache_is_read(
    clip: Path, hub_cache: Path, load: Callable[..., nn.Module]
) -> None:
    state = load(clip).state_dict()
    model = move_to_hub_cache(clip, hub_cache, "openai/clip-vit-large-patch14")
    assert have_equal_tensors(load("openai/clip-vit-large-patch14").state_dict(), state)
    assert have_equal_tensors(load(model).state_dict(), state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vision_backbone_is_read_in_every_layout(
    tmp_path: Path, hub_cache: Path, layout: str
) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "convnext"
    ConvNextModel(ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)).save_pretrained(folder)
    state = VisionBackbone(folder).state_dict()
    assert have_equal_tensors(VisionBackbone(rewrite_in_layout(folder, layout)).state_dict(), state)
    model = move_to_hub_cache(folder, hub_cache)
    for source in ("owner/name", model):
        assert have_equal_tensors(BackboneSource(source).vision.state_dict(), state)


@pytest.fixture
def original(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, BackboneSource, Any]:
    """Return an original file of a small Stable Diffusion 1.x, its folder and its text tower."""
    source = BackboneSource(pipeline)
    architecture, _ = architectures.from_weights(pipeline)
    monkeypatch.setitem(architectures.PRESETS, "sd15", architecture)  # type: ignore[arg-type]
    state = write_original_file(tmp_path / "original.safetensors", pipeline)
    torch.manual_seed(2)
    config = {k: v for k, v in TOWER_SIZES.items() if k != "projection_dim"}
    tower = CLIPTextModel(CLIPTextConfig(**config, **VOCABULARY, hidden_act="quick_gelu"))
    tower.save_pretrained(tmp_path / "tower")
    state = {k: v for k, v in state.items() if not k.startswith("cond_stage")}
    prefix = "cond_stage_model.transformer."
    state |= {prefix + k: v for k, v in load_file(tmp_path / "tower/model.safetensors").items()}
    save_file(state, tmp_path / "original.safetensors")
    return tmp_path / "original.safetensors", source, tower.eval()


def test_an_original_file_equals_its_diffusers_folder(
    original: tuple[Path, BackboneSource, Any],
) -> None:
    """Its text tower gives the same prompt features as that of the folder."""
    path, folder, tower = original
    source = BackboneSource(path)
    assert (source.is_local, source.is_diffusion, source.has_clip) == (True, True, False)
    assert source.name == str(path.resolve())
    assert have_equal_tensors(source.diffusion.state_dict(), folder.diffusion.state_dict())
    assert source.diffusion.latent_scale == 0.18215
    assert have_equal_tensors(load_text_model(path).state_dict(), tower.state_dict())
    prompts = Unprompted.from_folder(source.folder, 64)
    tokens = torch.tensor([[38, *[39] * 76]])
    with torch.no_grad():
        assert torch.equal(prompts.rows, tower(tokens).last_hidden_state[0])


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_original_files_with_prefixes_and_newer_attention_names_are_read(
    original: tuple[Path, BackboneSource, Any], wrapper: str
) -> None:
    """Newer programs use other names and linear layers in the attention of the VAE."""
    path, folder, _ = original
    state = load_file(path)
    names = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}
    attention = "first_stage_model.encoder.mid.attn_1."
    for old, new in names.items():
        for kind in ("weight", "bias"):
            value = state.pop(f"{attention}{old}.{kind}")
            state[f"{attention}{new}.{kind}"] = value.flatten(1) if value.ndim > 1 else value
    rewrite({wrapper + name: value for name, value in state.items()}, path)
    assert have_equal_tensors(
        BackboneSource(path).diffusion.state_dict(), folder.diffusion.state_dict()
    )
    torch.save({"state_dict": state}, path.with_suffix(".ckpt"))
    loaded = BackboneSource(path.with_suffix(".ckpt")).diffusion
    assert have_equal_tensors(loaded.state_dict(), folder.diffusion.state_dict())


def rename_to_open_clip(tower: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a tower with OpenCLIP's names and an additional, unused layer."""
    ours = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    tops = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    state = {k: v for k, v in tower.state_dict().items() if "position_ids" not in k}
    theirs = {tops[name]: state[name] for name in tops}
    for layer in (0, 1, 2):
        begin = f"encoder.layers.{min(layer, 1)}."
        for name, value in state.items():
            for new, old in ours.items():
                if name.startswith(begin + new):
                    rest = name.removeprefix(begin + new)
                    theirs[f"transformer.resblocks.{layer}.{old}{rest}"] = value
        for kind in ("weight", "bias"):
            packed = [state[f"{begin}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            theirs[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(packed)
    return {f"cond_stage_model.model.{name}": value.clone() for name, value in theirs.items()}


def test_the_text_tower_of_stable_diffusion_2_is_converted(tmp_path: Path) -> None:
    """It has the names of OpenCLIP, uses the second-to-last layer, and pads with zeros."""
    torch.manual_seed(3)
    config = {k: v for k, v in TOWER_SIZES.items() if k != "projection_dim"}
    vocabulary = {**VOCABULARY, "pad_token_id": 0}
    tower = CLIPTextModel(CLIPTextConfig(**config, **vocabulary, hidden_act="gelu")).eval()
    path = tmp_path / "v2.safetensors"
    save_file(rename_to_open_clip(tower), path)
    assert have_equal_tensors(load_text_model(path).state_dict(), tower.state_dict())
    tokens = torch.tensor([[38, 39, *[0] * 75]])
    with torch.no_grad():
        expected = tower(tokens).last_hidden_state[0]
    assert torch.equal(Unprompted.from_folder(path, 64).rows, expected)


def test_an_original_file_uses_the_tokenizer_of_clip(
    original: tuple[Path, BackboneSource, Any], pipeline: Path, hub_cache: Path
) -> None:
    path, _, _ = original
    with pytest.raises(InputError, match=r"has no tokenizer, and CLIP's is not there \(openai/"):
        load_text_encoder(path)
    shutil.copytree(pipeline / "tokenizer", hub_cache.parent / "clip")
    move_to_hub_cache(hub_cache.parent / "clip", hub_cache, "openai/clip-vit-large-patch14")
    tokenizer, _ = load_text_encoder(path)
    assert tokenizer.pad_token_id == 39


def test_files_of_other_models_are_an_error(
    original: tuple[Path, BackboneSource, Any], tmp_path: Path
) -> None:
    path, _, _ = original
    state = load_file(path)
    wide = {
        name: torch.zeros(len(value), 2048) if name.endswith("attn2.to_k.weight") else value
        for name, value in state.items()
    }
    save_file(wide, tmp_path / "xl.safetensors")
    with pytest.raises(InputError, match=r"xl.safetensors: its UNet takes .*\[2048\].*1\.x \(768"):
        BackboneSource(tmp_path / "xl.safetensors").fresh_diffusion(trainable=())
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"no entry begins with model\.diffusion_model"):
        BackboneSource(tmp_path / "other.safetensors").fresh_diffusion(trainable=())
    with pytest.raises(InputError, match="no CLIP text model in it"):
        load_text_model(tmp_path / "other.safetensors")
    (name,) = [one for one in state if one.endswith("token_embedding.weight")]
    save_file({**state, name: state[name].flatten()}, tmp_path / "flat.safetensors")
    with pytest.raises(InputError, match=r"its CLIP text model is damaged \(wrong shapes\): give"):
        load_text_model(tmp_path / "flat.safetensors")
