"""VPD's segmentation models against recorded arrays of the authors' code."""

from pathlib import Path

import pytest
import torch

from diffsight.hub.convert import convert_vpd_referring, convert_vpd_segmentation
from diffsight.types import Inputs
from tests.parity import fill_rule
from tests.parity.support import (
    Golden,
    assert_agrees,
    checkpoint,
    golden_paths,
    image,
    read_golden,
    record_taps,
)


def assert_settings(golden: Golden, timestep: int) -> None:
    settings = golden.about["settings"]
    assert settings["latent"] == "mode, not scaled"
    assert settings["attention"] == "up_cross+down_cross, strides 16 and 32"
    assert timestep == settings["timestep"]


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("vpd_seg"), ids=lambda path: path.stem)
def test_segmentation_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    model, report = convert_vpd_segmentation(checkpoint(golden))
    method = model.method
    assert len(model.task.class_names) == golden.about["settings"]["num_classes"]
    assert not report.unused
    assert not report.missing
    assert_settings(golden, method.timestep)
    taps = record_taps(method)
    method.neck.register_forward_hook(
        lambda *a: taps.update({f"fpn.{i}": f for i, f in enumerate(a[2].features)})
    )
    method.head.output.register_forward_hook(lambda *a: taps.update(logits_quarter=a[2]))
    with torch.inference_mode():
        taps["out_c10_s4"] = model(Inputs(image(golden))).maps
    assert set(golden.arrays) <= set(taps)
    for name in golden.arrays:
        assert_agrees(golden, name, taps[name])


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("vpd_refer"), ids=lambda path: path.stem)
def test_referring_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    model, report = convert_vpd_referring(checkpoint(golden))
    method = model.method
    assert method.prompts.num_tokens == golden.about["settings"]["token_length"]
    assert not report.unused
    assert not report.missing
    assert_settings(golden, method.timestep)
    taps = record_taps(method)
    method.head.output.register_forward_hook(lambda *a: taps.update(classifier=a[2]))
    recipe = golden.about["inputs"]["text_features"]
    assert recipe["rule"] == "normal"
    text = torch.from_numpy(fill_rule.normal(recipe["name"], recipe["shape"]))
    with torch.inference_mode():
        taps["out"] = model(Inputs(image(golden), text=text)).maps
    assert set(golden.arrays) <= set(taps)
    for name in golden.arrays:
        assert_agrees(golden, name, taps[name])
