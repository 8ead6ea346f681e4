"""VPD segmentation against the authors' implementation at every tap."""

from pathlib import Path

import pytest
import torch

from diffsight.hub.convert import convert_vpd_segmentation
from diffsight.types import Inputs
from tests.parity.support import assert_agrees, checkpoint, golden_paths, image, read_golden


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_paths("vpd_seg"), ids=lambda path: path.stem)
def test_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    assert settings["latent"] == "mode, not scaled"
    assert settings["attention"] == "up_cross+down_cross, strides 16 and 32"
    state = checkpoint(golden)
    model, report = convert_vpd_segmentation(state)
    del state
    method = model.method
    assert method.timestep == settings["timestep"]
    assert model.task.num_outputs == settings["num_classes"]
    assert not report.unused
    assert not report.missing

    taps: dict[str, torch.Tensor] = {}
    method.backbone.vae.register_forward_hook(lambda *a: taps.update(latent=a[2]))
    method.prompts.register_forward_hook(lambda *a: taps.update(c_crossattn=a[2]))
    method.backbone.register_forward_hook(
        lambda *a: taps.update(attn32=a[2].attention[1], attn16=a[2].attention[2])
    )
    method.neck.register_forward_pre_hook(
        lambda *a: taps.update({f"unet.{i}": f for i, f in enumerate(a[1][0].features)})
    )
    method.neck.register_forward_hook(
        lambda *a: taps.update({f"fpn.{i}": f for i, f in enumerate(a[2].features)})
    )
    method.head.output.register_forward_hook(lambda *a: taps.update(logits_quarter=a[2]))
    with torch.inference_mode():
        taps["out_c10_s4"] = model(Inputs(image(golden))).maps
    assert set(golden.arrays) <= set(taps)
    for name in golden.arrays:
        assert_agrees(golden, name, taps[name])
