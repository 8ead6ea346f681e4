"""EVP against recorded arrays of the authors' code, with weights made by a rule."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from diffsight.hub.convert import convert_evp_depth, convert_evp_referring
from diffsight.types import Inputs
from tests.parity.support import (
    assert_agrees,
    checkpoint,
    golden_paths,
    image,
    read_golden,
    record_taps,
    tokens,
)


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("evp_depth"), ids=lambda path: path.stem)
def test_depth_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    assert settings["prompts"].startswith("aggregated")
    model, report = convert_evp_depth(
        checkpoint(golden),
        max_depth_m=settings["max_depth_m"],
        latent_std=settings["latent_divisor"],
    )
    method = model.method
    assert method.timestep == settings["timestep"]
    assert not report.unused
    assert not report.missing
    taps = record_taps(method)
    method.refine.register_forward_hook(
        lambda *a: taps.update({f"imafr.{i}": f for i, f in enumerate(a[2].features)})
    )
    method.neck.register_forward_hook(lambda *a: taps.update(encoder_out=a[2].features[0]))
    head = method.head
    # recorded before the sigmoid, unlike its note states: it has negative values
    head.decoder.output.register_forward_hook(lambda *a: taps.update(out_depth=a[2]))
    head.seed.register_forward_hook(
        lambda *a: taps.update(seed_b_centers=functional.softplus(a[2]))
    )
    strips = []
    head.distribution.register_forward_hook(lambda *a: strips.append(a[2]))
    move_centres, levels = head.move_centres, []

    def record_centres(centres, goals):
        levels.append(move_centres(centres, goals))
        return levels[-1]

    head.move_centres = record_centres
    with torch.inference_mode():
        taps["pred_d"] = model(Inputs(image(golden))).maps
    taps["clb"] = torch.cat(strips, dim=2)
    taps |= {f"attractor{i}": centres for i, centres in enumerate(levels)}
    assert set(golden.arrays) <= set(taps)
    for name in golden.arrays:
        assert_agrees(golden, name, taps[name])
    # with these weights all depths are nearly equal
    ours, expected = taps["pred_d"].numpy(), golden.arrays["pred_d"]
    assert abs(ours - expected).max() <= 1e-5 * abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("evp_refer"), ids=lambda path: path.stem)
def test_referring_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    model, report = convert_evp_referring(checkpoint(golden), latent_std=settings["latent_divisor"])
    method = model.method
    assert method.timestep == settings["timestep"]
    assert method.prompts.num_tokens == settings["token_length"]
    assert not report.unused
    assert not report.missing
    taps = record_taps(method)
    method.prompts.tower.register_forward_hook(
        lambda *a: taps.update(
            clip_last_hidden=a[2].last_hidden_state, clip_pooled=a[2].pooler_output
        )
    )
    method.refine.register_forward_hook(
        lambda *a: taps.update({f"imafr.{i}": f for i, f in enumerate(a[2].features)})
    )
    method.head.output.register_forward_hook(lambda *a: taps.update(classifier=a[2]))
    taps["input_ids"] = tokens(golden)
    with torch.inference_mode():
        taps["out"] = model(Inputs(image(golden), text=taps["input_ids"])).maps
    assert set(golden.arrays) <= set(taps)
    for name in golden.arrays:
        assert_agrees(golden, name, taps[name])
