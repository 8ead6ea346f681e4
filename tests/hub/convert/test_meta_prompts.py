"""Converter of Meta Prompts: numbers of passes and classes, and refused checkpoints."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.support_models import ARCHITECTURE
from tests.support_originals import KINDS, shapes

from diffsight import recipes
from diffsight.backbones import StableDiffusion
from diffsight.cli import main
from diffsight.cli.convert import _short_side
from diffsight.datasets import RandomScale
from diffsight.errors import InputError
from diffsight.heads import UPerHead
from diffsight.hub import construct, read_config
from diffsight.hub.convert import CONVERTERS, meta_prompts
from diffsight.label_maps import CITYSCAPES_CLASSES, CITYSCAPES_IDS

DEPTH, SEGMENTATION = "meta-prompts-depth", "meta-prompts-segmentation"
PREFIX = {DEPTH: "encoder.", SEGMENTATION: ""}
State = dict[str, torch.Tensor]


def shapes_with_classes(kind: str, count: int) -> State:
    """Return the authors' entries for ``count`` classes, without values."""
    state = shapes(KINDS[kind])
    for key, value in state.items():
        if ".conv_seg." in key:
            state[key] = torch.empty(count, *value.shape[1:], device="meta")
    if kind == "vpd-segmentation":
        state["class_embeddings"] = torch.empty(count, 768, device="meta")
        for level, width in ((1, 640), (2, 1280)):  # features, and one attention map per class
            key = f"neck.lateral_convs.{level}.conv.weight"
            state[key] = torch.empty(256, width + count, 1, 1, device="meta")
    elif kind == "ddp-segmentation":
        state["embedding_table.weight"] = torch.empty(count + 1, 256, device="meta")
    return state


def without(state: State, pattern: str) -> State:
    """Return the entries whose names do not begin with a match of the pattern."""
    return {key: value for key, value in state.items() if not re.match(pattern, key)}


def shapes_of_one_pass(kind: str) -> State:
    """Return the authors' entries for a model of one pass, without values."""
    prefix = re.escape(PREFIX[kind])
    later = rf"{prefix}(t[23]$|meta_prompts[23]$|text_adapter[23]\.|cross_unet_conv)"
    return without(shapes(KINDS[kind]), later)


@pytest.mark.parametrize("kind", [DEPTH, SEGMENTATION])
def test_a_checkpoint_of_one_pass_has_no_output_head(kind: str) -> None:
    state = shapes_of_one_pass(kind)
    model, report = CONVERTERS[kind](state)
    method: Any = model.method
    assert method.passes == 1
    assert not method.backbone.has_output_head
    assert set(report.used.values()) == set(model.state_dict())
    assert set(report.used) | set(report.dropped) == set(state)
    assert not report.unused
    head = f"{PREFIX[kind]}unet.unet.diffusion_model.out."
    dropped = {key: why for key, why in report.dropped.items() if key.startswith(head)}
    assert sorted(dropped) == [f"{head}{i}.{part}" for i in (0, 2) for part in ("bias", "weight")]
    assert set(dropped.values()) == {"the UNet's output head, which a single pass never runs"}
    assert not any("cross_unet_conv" in key for key in report.dropped)


@pytest.mark.parametrize(
    ("kind", "absent", "part", "count"),
    [
        (DEPTH, r"encoder\.t3$", "copies of the UNet's output head", (2, 3)),
        (DEPTH, r"encoder\.meta_prompts3$", "prompts", (3, 2)),
        (DEPTH, r"encoder\.text_adapter[23]\.", "adapters", (3, 1)),
        (DEPTH, r"encoder\.cross_unet_conv3\.", "copies of the UNet's output head", (3, 2)),
        (SEGMENTATION, r"t[23]$", "copies of the UNet's output head", (1, 3)),
        (SEGMENTATION, r"cross_unet_conv", "copies of the UNet's output head", (3, 1)),
    ],
)
def test_parts_with_different_numbers_of_passes_are_refused(
    kind: str, absent: str, part: str, count: tuple[int, int]
) -> None:
    state = without(shapes(KINDS[kind]), absent)
    times, others = ("1 pass" if n == 1 else f"{n} passes" for n in count)
    for partial in (False, True):
        with pytest.raises(InputError) as refusal:
            CONVERTERS[kind](state, partial=partial)
        message = str(refusal.value)
        assert f"has time embeddings for {times}, but {part} for {others}: convert" in message
        assert "\n" not in message


def test_too_many_passes_are_refused() -> None:
    state = shapes(KINDS[SEGMENTATION])
    for number in range(4, 12):
        state[f"t{number}"] = state["t1"]
        state[f"cross_unet_conv{number}.0.bias"] = state["cross_unet_conv2.0.bias"]
    with pytest.raises(InputError, match="11 passes: at most 9 can be read"):
        CONVERTERS[SEGMENTATION](state)


@pytest.mark.parametrize("kind", [DEPTH, SEGMENTATION])
@pytest.mark.parametrize("entry", ["cross_unet_conv2.0.weight", "cross_unet_conv3.2.bias"])
def test_unequal_copies_of_the_output_head_are_refused(kind: str, entry: str) -> None:
    state, prefix = shapes(KINDS[kind]), PREFIX[kind]
    part = entry.partition(".")[2]
    original = f"{prefix}unet.unet.diffusion_model.out.{part}"
    for name in (original, *(f"{prefix}cross_unet_conv{i}.{part}" for i in (2, 3))):
        state[name] = torch.full(state[original].shape, 0.5)
    assert CONVERTERS[kind](state)[0].method.passes == 3
    with pytest.raises(InputError) as refusal:
        CONVERTERS[kind](state | {prefix + entry: state[original] + 1})
    assert str(refusal.value).startswith(f"{prefix}{entry} should be a copy of the UNet's output")


@pytest.mark.parametrize(
    ("kind", "name", "shape", "message"),
    [
        (SEGMENTATION, "meta_prompts", (150,), "a table of prompts is prompts x width"),
        (SEGMENTATION, "meta_prompts", (), "a table of prompts is prompts x width"),
        (DEPTH, "encoder.meta_prompts1", (1, 50, 768), "a table of prompts is prompts x width"),
        (DEPTH, "encoder.meta_prompts2", (40, 768), r"Meta Prompts depth needs \(50, 768\)"),
        (SEGMENTATION, "decode_head.conv_seg.weight", (), "a convolution has four axes"),
    ],
)
def test_entries_of_a_wrong_shape_are_refused(
    kind: str, name: str, shape: tuple[int, ...], message: str
) -> None:
    state = shapes(KINDS[kind]) | {name: torch.empty(shape, device="meta")}
    with pytest.raises(InputError, match=rf"^{re.escape(name)} has shape .*{message}"):
        CONVERTERS[kind](state)


def test_prompts_of_another_width_are_refused() -> None:
    state = shapes(KINDS[SEGMENTATION]) | {"meta_prompts": torch.empty(150, 512, device="meta")}
    with pytest.raises(InputError, match="vectors of 512 numbers, the backbone takes 768"):
        CONVERTERS[SEGMENTATION](state)


def test_a_checkpoint_without_prompts_is_refused() -> None:
    for kind in (DEPTH, SEGMENTATION):
        state = without(shapes(KINDS[kind]), r".*meta_prompts")
        with pytest.raises(InputError, match=r"not a checkpoint of .*it has no \S*meta_prompts"):
            CONVERTERS[kind](state)


@pytest.mark.parametrize("kind", ["ddp-segmentation", SEGMENTATION, "vpd-segmentation"])
def test_a_checkpoint_of_19_classes_has_the_ids_of_cityscapes(kind: str) -> None:
    state = shapes_with_classes(kind, 19)
    names = {"names": CITYSCAPES_CLASSES} if kind.startswith("vpd") else {}
    model, report = CONVERTERS[kind](state, **names)
    assert not report.unused
    assert not report.missing
    assert model.task.class_names == CITYSCAPES_CLASSES
    assert model.task.ids == CITYSCAPES_IDS
    own = [f"class {i}" for i in range(19)]
    assert CONVERTERS[kind](state, names=own)[0].task.ids == tuple(range(19))
    with pytest.raises(InputError, match="names are given: name them with --names"):
        CONVERTERS[kind](state, names=own[1:])


def test_a_converted_model_has_the_task_of_the_recipe() -> None:
    for name, count in (("cityscapes", 19), ("ade20k", 150)):
        model, _ = CONVERTERS[SEGMENTATION](shapes_with_classes(SEGMENTATION, count))
        recipe = recipes.find(f"meta_prompts/{name}").read_text()
        task = construct(type(model.task), yaml.safe_load(recipe)["task"])
        assert (task.class_names, task.ids) == (model.task.class_names, model.task.ids)
        assert (task.lovasz_weight, task.average) == (1.0, "all")
        assert (task.lovasz_weight, task.average) == (model.task.lovasz_weight, model.task.average)


@pytest.mark.parametrize(
    ("kind", "classes", "recipe"),
    [
        ("ddp-segmentation", 19, "ddp/cityscapes_swin_t"),
        ("ddp-segmentation", 150, "ddp/ade20k_swin_t"),
        (SEGMENTATION, 19, "meta_prompts/cityscapes"),
        (SEGMENTATION, 19, "meta_prompts/mapillary"),
        (SEGMENTATION, 150, "meta_prompts/ade20k"),
        ("vpd-segmentation", 150, "vpd/ade20k_80k"),
    ],
)
def test_a_converted_model_has_the_short_side_of_the_recipe(
    kind: str, classes: int, recipe: str
) -> None:
    model, _ = CONVERTERS[kind](shapes_with_classes(kind, classes))
    augment = yaml.safe_load(recipes.find(recipe).read_text())["augment"]
    (scale,) = (one for one in augment if one["class_path"] == "RandomScale")
    expected = RandomScale(**scale.get("init_args", {})).short_side
    assert _short_side(kind, model, 10.0) == expected


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> State:
    """Return a small checkpoint of one pass and 19 classes, and patch the converter."""
    state = shapes_of_one_pass(SEGMENTATION)
    _, report = CONVERTERS[SEGMENTATION](state)
    layers = {"layers_per_block": 2}
    architecture = {
        "unet": {**ARCHITECTURE["unet"], "block_out_channels": (4, 8, 16, 16), **layers},
        "vae": {**ARCHITECTURE["vae"], "block_out_channels": (2, 4, 8, 8), **layers},
    }
    build = functools.partial(StableDiffusion, architecture)
    monkeypatch.setattr(meta_prompts, "StableDiffusion", lambda _, **options: build(**options))
    monkeypatch.setattr(meta_prompts, "UPerHead", functools.partial(UPerHead, width=8))
    distinctive = {
        "meta_prompts": torch.randn(6, 8),
        "t1": torch.randn(1, 16),
        "decode_head.conv_seg.weight": torch.randn(19, 8, 1, 1),
    }
    torch.manual_seed(0)
    model, _ = CONVERTERS[SEGMENTATION](distinctive, partial=True)
    values = model.state_dict()
    return {key: values[ours].clone() for key, ours in report.used.items()}


def test_predictions_of_a_converted_cityscapes_model_are_label_ids(
    small: State, tmp_path: Path
) -> None:
    torch.save({"state_dict": small}, tmp_path / "mapillary.pth")
    model = tmp_path / "model"
    command = ["convert", SEGMENTATION, str(tmp_path / "mapillary.pth"), "--out", str(model)]
    assert main(command) == 0
    assert read_config(model)["info"]["short_side"] == 1024
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    out = tmp_path / "p"
    command = ["predict", str(tmp_path / "street.png"), "--model", str(model), "--device", "cpu"]
    assert main([*command, "--out", str(out), "--short-side", "64"]) == 0
    about = json.loads((out / "street.json").read_text())
    expected = {str(i): n for i, n in zip(CITYSCAPES_IDS, CITYSCAPES_CLASSES, strict=True)}
    assert about["names"] == expected
    ids = set(np.unique(np.asarray(Image.open(out / about["classes"]))))
    assert ids <= set(CITYSCAPES_IDS)
