"""The packaged model ``tiny``: its files, its shapes and its outputs."""

import functools
import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from diffsight import assets
from diffsight.backbones import StableDiffusion
from diffsight.backbones.architectures import PRESETS
from diffsight.heads import DeconvHead
from diffsight.inference.generate import generate
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import Merging
from diffsight.prompts import TextTable
from diffsight.rooms import Rooms, render_scene
from diffsight.tasks import Depth
from diffsight.types import Inputs

ROOT = Path(__file__).parents[2]
MAX_BYTES = 25_000_000
SCENES = 16


@pytest.fixture(scope="module")
def folder() -> Path:
    return assets.find("tiny")


def test_the_folder_is_below_25_mb_and_lists_all_files(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.relative_to(folder).as_posix() for path in files} - {"SHA256SUMS"}
    assert {"README.md", "samples.png", "model_index.json", "tokenizer/vocab.json"} <= listed


def test_no_file_has_a_path_of_the_machine_that_wrote_it(folder: Path) -> None:
    for path in (*folder.rglob("*config.json"), folder / "README.md", folder / "training.json"):
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text, path
        assert '"/' not in text, path


def test_the_wheel_contains_the_folder() -> None:
    """hatchling includes all files of a package that git does not ignore."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert wheel == {"targets": {"wheel": {"packages": ["src/diffsight"]}}}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert not [line for line in ignored if "safetensors" in line or "assets" in line]


def test_all_weights_have_half_precision(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert dtypes == {"F16"}, path
    assert not list(folder.rglob("*.bin"))


def test_the_folder_has_the_layout_of_diffusers(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    expected = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    assert {name: schedule[name] for name in expected} == expected


def test_the_topology_is_that_of_stable_diffusion(folder: Path) -> None:
    """So the layer names in the papers are valid for the packaged model."""
    unet = json.loads((folder / "unet" / "config.json").read_text())
    reference = PRESETS["sd15"]["unet"]
    for name in ("down_block_types", "up_block_types"):
        assert tuple(unet[name]) == reference[name]
    assert unet["layers_per_block"] == reference["layers_per_block"]
    vae = json.loads((folder / "vae" / "config.json").read_text())
    assert (len(vae["block_out_channels"]), vae["latent_channels"]) == (4, 16)


def test_features_are_finite_for_an_image_of_any_size() -> None:
    backbone = StableDiffusion("tiny").eval()
    assert backbone.strides[0] == 8
    method = functools.partial(
        VPD,
        backbone=backbone,
        prompts=TextTable(["kitchen"], dim=backbone.context_dim),
        neck=functools.partial(Merging, width=8, groups=4),
        head=functools.partial(DeconvHead, widths=(8, 8, 8), width=8),
    )
    model = DenseModel(task=Depth(), method=method).eval()
    image = Rooms("val", 1, (96, 130))[0].image[None] / 255
    taps = []
    features = backbone.features
    backbone.features = lambda *call: taps.extend(maps := features(*call)) or maps
    with torch.no_grad():
        maps = model(Inputs(image)).maps
    assert maps.shape == (1, 1, 96, 130)
    for feature in (*taps, maps):
        assert feature.isfinite().all()
    for feature, width in zip(taps, backbone.channels, strict=True):
        assert feature.shape[1] == width
        assert feature.std() > 1e-3


def test_clip_matches_captions_and_images_better_than_chance(folder: Path) -> None:
    """Each of 16 held-out captions is matched to one of their images."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder").float().eval()
    vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").float().eval()
    assert text.config.eos_token_id == tokenizer.eos_token_id
    preprocessing = json.loads((folder / "image_encoder" / "preprocessor_config.json").read_text())
    mean, std = (
        torch.tensor(preprocessing[name])[:, None, None] for name in ("image_mean", "image_std")
    )
    size = vision.config.image_size
    rooms = [render_scene(i, split="test", size=(size, size), labels=()) for i in range(SCENES)]
    pixels = torch.stack([torch.from_numpy(room.image) / 255 for room in rooms])
    captions = [room.caption for room in rooms]
    ids = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        a = text(**ids).text_embeds
        b = vision((pixels - mean) / std).image_embeds
    assert a.shape == b.shape
    similarity = torch.cosine_similarity(a[:, None], b[None], dim=-1)
    hits = (similarity.argmax(dim=1) == torch.arange(SCENES)).float().mean()
    assert hits >= 0.25  # chance: 1/16


def test_generated_images_have_contrast_and_differ_between_seeds() -> None:
    images = generate("a red sphere beside a table in a kitchen", count=2, steps=4, device="cpu")
    assert images.float().std() > 10
    assert not torch.equal(images[0], images[1])
