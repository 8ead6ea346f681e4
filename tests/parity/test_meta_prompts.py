"""Meta Prompts against recorded arrays of the authors' code, with weights made by a rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffsight.hub.convert import (
    convert_meta_prompts_depth,
    convert_meta_prompts_segmentation,
)
from diffsight.methods import MetaPrompts
from diffsight.types import Inputs
from tests.parity.support import assert_agrees, checkpoint, golden_paths, image, read_golden


@contextmanager
def record_passes(method: MetaPrompts) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that records inputs and outputs of every pass, by their meaning."""
    taps: dict[str, Tensor] = {}
    backbone, features = method.backbone, method.backbone.features
    numbers = iter(range(9))

    def record_features(latent: Tensor, condition: Tensor, *others, **options):
        number = next(numbers)
        taps[f"input of loop {number + 1}"] = latent
        taps[f"adapted prompts of loop {number + 1}"] = condition
        levels = features(latent, condition, *others, **options)
        taps[f"finest feature, loop {number + 1}"] = levels[0]
        for level, one in enumerate(levels):
            taps[f"loop {number + 1}, level {level}"] = one
        return levels

    backbone.features = record_features
    yield taps
    backbone.features = features
    taps["latent"] = taps["input of loop 1"]


def assert_taps_agree(golden, taps: dict[str, Tensor]) -> None:
    for name, tap in golden.about["taps"].items():
        meaning = tap["of"].removesuffix(" (0 = finest)")
        assert meaning in taps, (name, meaning)
        assert_agrees(golden, name, taps[meaning])


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("metaprompts_depth"), ids=lambda path: path.stem)
def test_depth_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    model, report = convert_meta_prompts_depth(
        checkpoint(golden),
        max_depth_m=settings["max_depth_m"],
        enlarge_by=settings["resize_scale"],
    )
    method = model.method
    assert settings["latent"] == "mode, not scaled"
    assert method.passes == settings["refine_steps"]
    assert not report.unused
    assert not report.missing
    with record_passes(method) as taps, torch.inference_mode():
        for level, part in enumerate(method.rearrange.levels):
            part.register_forward_hook(
                lambda *a, n=level: taps.update({f"layer{n + 1} output (stride 8)": a[2]})
            )
        method.rearrange.register_forward_hook(
            lambda *a: taps.update({"rearranged features, one channel a prompt": a[2].features[0]})
        )
        taps["depth in metres"] = model(Inputs(image(golden))).maps
    assert_taps_agree(golden, taps)


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("metaprompts_seg"), ids=lambda path: path.stem)
def test_segmentation_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    model, report = convert_meta_prompts_segmentation(checkpoint(golden))
    method = model.method
    assert method.passes == golden.about["settings"]["refine_steps"]
    assert not report.unused
    assert not report.missing
    with record_passes(method) as taps, torch.inference_mode():
        method.head.register_forward_pre_hook(
            lambda *a: taps.update(
                {f"rearranged features, level {i}": x for i, x in enumerate(a[1][0].features)}
            )
        )
        method.head.output.register_forward_hook(
            lambda *a: taps.update({"head logits before upsampling": a[2]})
        )
        taps["logits at image size"] = model(Inputs(image(golden))).maps
    assert_taps_agree(golden, taps)
