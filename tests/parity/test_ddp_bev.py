"""DDP's bird's-eye-view maps against recorded arrays of the authors' code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffsight.hub.convert import convert_ddp_bev
from diffsight.methods import DDP
from diffsight.methods.ddp import NOISE
from diffsight.model import DenseModel
from diffsight.types import Draws, Inputs, Rig
from tests.parity import fill_rule
from tests.parity.support import Golden, assert_agrees, checkpoint, golden_paths, read_golden


class RecordedNoise(Draws):
    """Replace ``Draws`` and return the noise of the authors' run, one row per seed."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__((0,))
        object.__setattr__(self, "noise", noise)

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        row = (stream - NOISE) // 2
        assert tuple(self.noise.shape[1:]) == shape
        return self.noise[row : row + 1]


def convert(golden: Golden) -> DenseModel:
    """Return the converted model, for images that are already normalised."""
    settings = golden.about["settings"]
    bounds = {
        name: tuple(settings[key])
        for name, key in (("x", "x_bound"), ("y", "y_bound"), ("depths", "depth_bound"))
    }
    low, high, cell_m = settings["output_bound"]
    model, report = convert_ddp_bev(
        checkpoint(golden),
        **bounds,
        cells=round((high - low) / cell_m),
        cell_m=cell_m,
        steps=settings["steps"],
        seeds=settings["seeds"],
        image_hw=None,
        cameras=None,
    )
    assert not report.unused
    assert not report.missing
    images: Any = model.method.backbone.images
    images.mean.zero_()  # the golden images are already normalised
    images.std.fill_(1)
    return model.eval()


def rig_of(golden: Golden) -> Rig:
    shape = golden.about["inputs"]["image"]["shape"]
    image = fill_rule.normal(golden.about["inputs"]["image"]["name"], shape)
    names = ("camera_intrinsics", "camera2lidar", "img_aug_matrix", "lidar_aug_matrix")
    return Rig(
        *(torch.from_numpy(one) for one in (image, *(golden.arrays[f"in_{n}"] for n in names)))
    )


def run(model: DenseModel, golden: Golden) -> dict[str, Tensor]:
    """Return the computed tensors, by their meaning."""
    method = model.method
    assert isinstance(method, DDP)
    backbone: Any = method.backbone
    rig = rig_of(golden)
    taps: dict[str, Tensor] = {}
    counts = {"fused feature": 0, "time vector": 0, "probabilities": 0}

    def record(meaning: str, joint: str, value: Tensor) -> None:
        taps[f"{meaning}{joint}step {counts[meaning]}"] = value
        counts[meaning] += 1

    def record_grid(module: Any, args: Any) -> None:
        taps[f"feature on the output grid, step {counts['fused feature'] - 1}"] = args[0]

    assert method.fuse is not None
    assert method.time is not None
    method.fuse.register_forward_hook(lambda m, i, o: record("fused feature", ", ", o))
    method.time.register_forward_hook(lambda m, i, o: record("time vector", ", ", o[:1]))
    method.predict.register_forward_hook(
        lambda m, i, o: record("probabilities", " of ", o.sigmoid())
    )
    method.decoder.register_forward_pre_hook(record_grid)
    with torch.inference_mode():
        levels = backbone.images.levels(rig.images.flatten(0, 1))
        taps |= {f"image encoder level {i}": level for i, level in enumerate(levels)}
        finest = backbone.pyramid(levels)
        views = finest.unflatten(0, rig.images.shape[:2])
        lifted = backbone.lift(views, rig)
        encoded = backbone.encoder(lifted)
        taps |= {
            "camera feature, finest": finest,
            "frustum points in LiDAR coordinates [m]": backbone.lift.points(rig, views.shape[-2:]),
            "pooled BEV volume": backbone.lift.splat(views, rig).flatten(1, 2),
            "view transform output": lifted,
            "BEV feature": backbone.join(encoded),
        }
        taps |= {f"BEV encoder level {i}": level for i, level in enumerate(encoded)}
        noise = golden.about["inputs"]["noise"]
        values = fill_rule.normal(str(golden.arrays["noise_name"]), noise["shape"])
        inputs = Inputs(torch.zeros(1, 3, 1, 1), rig=rig)
        output = model(inputs, draws=RecordedNoise(torch.from_numpy(values)))
    taps["mean over steps and seeds"] = output.maps[0]
    return taps


@pytest.mark.parametrize("path", golden_paths("ddp_bev"), ids=lambda path: path.stem)
def test_maps_agree_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    model = convert(golden)
    assert (model.method.decoder.time_width is not None) == golden.about["settings"][
        "time_film_in_layers"
    ]
    taps = run(model, golden)
    for name, tap in golden.about["taps"].items():
        if tap["slice"] is None:
            assert tap["of"] not in taps
            continue
        assert_agrees(golden, name, taps[tap["of"]])
        if name.startswith("prob"):
            ours = taps[tap["of"]].numpy() > golden.about["settings"]["threshold"]
            theirs = golden.arrays[name] > golden.about["settings"]["threshold"]
            assert np.array_equal(ours, theirs), name


def test_the_number_of_parameters_is_that_of_the_authors() -> None:
    """The original also stores the constants of the view transform as parameters."""
    (path,) = golden_paths("ddp_bev")
    model = convert(read_golden(path))
    unused = "backbone.images.network.swin.layernorm."  # used only by a classifier
    count = sum(p.numel() for n, p in model.method.named_parameters() if not n.startswith(unused))
    assert count == 52_537_874
    depth: Any = model.method.backbone.lift.depth
    assert count + (118 - 58) * (depth.in_channels + 1) == 52_553_294  # the depth axis has 118 bins


def test_a_row_does_not_depend_on_its_batch() -> None:
    (path,) = golden_paths("ddp_bev")
    golden = read_golden(path)
    model, one = convert(golden), rig_of(golden)
    other = replace(one, images=one.images.flip(-1))
    both = Rig.joined([one, other])
    with torch.inference_mode():
        together = model(Inputs(torch.zeros(2, 3, 1, 1), rig=both), draws=Draws((5, 6))).maps
        alone = [
            model(Inputs(torch.zeros(1, 3, 1, 1), rig=rig), draws=Draws((seed,))).maps
            for rig, seed in ((one, 5), (other, 6))
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
