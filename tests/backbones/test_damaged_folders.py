"""Damaged files of a pretrained model are refused with a message of one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import SMALL

from diffsight import assets
from diffsight.backbones import BackboneSource, ClipVision, StableDiffusion, VisionBackbone
from diffsight.errors import InputError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(assets.find("tiny"), tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """Return a folder of links to the files of the embedded model, which tests may replace."""
    for file in whole.rglob("*"):
        link = tmp_path / "model" / file.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            link.symlink_to(file)
    return tmp_path / "model"


def replace(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(change(data)))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"block_out_channels": [0]}, r"block_out_channels is \[0\]: give a list"),
        ("unet", {"block_out_channels": "wide"}, "block_out_channels is 'wide'"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block is out of range"),
        ("unet", {"down_block_types": ["DownBlock2D"]}, "no UNet and VAE of its configuration"),
        ("unet", {"up_block_types": [[], [], [], []]}, "no UNet and VAE of its configuration"),
        ("unet", {"act_fn": "x" * 3000}, "no UNet and VAE of its configuration"),
        ("vae", {"scaling_factor": "NaN"}, "scaling_factor is 'NaN': write a positive number"),
        ("vae", {"scaling_factor": float("inf")}, "scaling_factor is inf"),
        ("vae", {"norm_num_groups": 0}, "no UNet and VAE of its configuration"),
        ("vae", {"latent_channels": -4}, "no UNet and VAE of its configuration"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(
    folder: Path, part: str, change: Any, message: str
) -> None:
    replace(folder / part / "config.json", lambda config: {**config, **change})
    with pytest.raises(InputError, match=message) as error:
        _ = BackboneSource(folder).diffusion
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("text", ["[]", "3", "[" * 10_000, "7" * 5000, '{"a": 1}', "{"])
def test_files_that_are_not_a_configuration_are_refused(folder: Path, part: str, text: str) -> None:
    path = folder / part / "config.json"
    path.unlink()
    path.write_text(text)
    with pytest.raises(InputError, match=rf"{part}/config\.json: (no |.* is missing)"):
        _ = BackboneSource(folder).diffusion


@pytest.mark.parametrize(
    "value",
    [[], 3, None, {"image_mean": 3}, {"image_mean": ["a"] * 3}, {"image_std": [0, 0, 0]}],
)
def test_damaged_preprocessor_configurations_are_refused(folder: Path, value: Any) -> None:
    replace(folder / "image_encoder" / "preprocessor_config.json", lambda _: value)
    with pytest.raises(InputError, match=r"preprocessor_config\.json: damaged \(.*\): fetch"):
        ClipVision(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 12},
        {"num_channels": "three"},
        {"hidden_size": 64},
        {"patch_size": 0},
    ],
)
def test_image_encoders_that_do_not_fit_their_weights_are_refused(
    folder: Path, change: Any
) -> None:
    replace(folder / "image_encoder" / "config.json", lambda config: {**config, **change})
    with pytest.raises(InputError, match="CLIP vision model") as error:
        ClipVision(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": 3},
        {"image_std": "x"},
        {"hidden_size": False},
        {"num_attention_heads": ""},
        {"model_type": "no such"},
        {"hidden_act": "NaN"},
    ],
)
def test_invalid_architectures_of_vision_backbones_are_refused(change: Any) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    whole = {"model_type": "dinov2", "image_size": 32, **sizes, **normal}
    with pytest.raises(InputError, match="no vision backbone") as error:
        VisionBackbone(architecture={**whole, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", [[torch.ones(2)], {"a": 3}, 3])
def test_weights_that_are_not_a_state_dict_are_refused(folder: Path, weights: Any) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(weights, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"model\.bin: (holds a \w+, not a state|no tensors in it)"
    ):
        StableDiffusion(SMALL, weights=folder)
