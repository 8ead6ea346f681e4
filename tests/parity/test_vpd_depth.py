"""VPD for depth against recorded arrays of the authors' code, with weights made by a rule."""

from pathlib import Path

import pytest
import torch

from diffsight.hub.convert import convert_vpd_depth
from diffsight.types import Inputs
from tests.parity.support import assert_agrees, checkpoint, golden_paths, image, read_golden


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("vpd_depth"), ids=lambda path: path.stem)
def test_depth_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    assert settings["latent"] == "mode, not scaled"
    assert settings["attention_maps"] is False
    state = checkpoint(golden)
    entries = sum(value.numel() for value in state.values() if value.is_floating_point())
    model, report = convert_vpd_depth(state, max_depth_m=settings["max_depth_m"])
    del state
    method = model.method
    assert method.timestep == settings["timestep"]
    assert not report.unused
    assert not report.missing
    assert all("post_quant_conv" in key for key in report.dropped)
    ours = sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())
    assert ours + 20 == entries

    taps: dict[str, torch.Tensor] = {}
    method.backbone.vae.register_forward_hook(lambda *a: taps.update(vae_moments_mean=a[2]))
    method.prompts.register_forward_hook(lambda *a: taps.update(c_crossattn=a[2]))
    method.neck.register_forward_pre_hook(
        lambda *a: taps.update({f"unet.{i}": f for i, f in enumerate(a[1][0].features)})
    )
    method.neck.register_forward_hook(lambda *a: taps.update(encoder_out=a[2].features[0]))
    method.head.output.register_forward_pre_hook(
        lambda *a: taps.update(decoder_out=a[1][0].clone())
    )
    names = method.prompts.names
    prompts = tuple(names[i] for i in golden.about["inputs"]["class_ids"])
    with torch.inference_mode():
        taps["pred_d"] = model(Inputs(image(golden), prompts)).maps
    assert set(golden.arrays) <= set(taps)
    for name in golden.arrays:
        assert_agrees(golden, name, taps[name])
