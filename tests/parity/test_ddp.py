"""DDP against recorded arrays of the authors' code, with weights made by a rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffsight.diffusion import CosineNoise, LinearNoise, UnclampedCosineNoise
from diffsight.diffusion.noise import ddim_step, time_pairs
from diffsight.hub.convert import convert_ddp_depth, convert_ddp_segmentation
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.types import Draws, Inputs
from tests.parity import fill_rule
from tests.parity.support import (
    BUNDLED,
    Golden,
    assert_agrees,
    checkpoint,
    golden_paths,
    read_golden,
)

CLASSES = [f"class {i}" for i in range(19)]


class RecordedNoise(Draws):
    """Replace ``Draws`` and return the noise of the authors' run."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__((0,))
        object.__setattr__(self, "noise", noise)

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        assert tuple(self.noise.shape[1:]) == shape
        return self.noise


def read_inputs(golden: Golden) -> tuple[Tensor, Tensor]:
    """Return the normalised image and the noise."""
    names = golden.arrays.get("input_names", ())
    arrays = []
    for i, part in enumerate(("image", "noise")):
        recipe = golden.about["inputs"][part]
        assert recipe["rule"] == "normal"
        name = str(names[i]) if recipe["name"].startswith("(") else recipe["name"]
        arrays.append(torch.from_numpy(fill_rule.normal(name, recipe["shape"])))
    return arrays[0], arrays[1]


def run(model: DenseModel, golden: Golden) -> dict[str, Tensor]:
    """Return the tensors of every step by the names of the golden file."""
    method = model.method
    assert isinstance(method, DDP)
    taps: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def record(meaning: str, change: Callable[[Any], Tensor] = lambda x: x) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            number = counts.get(meaning, 0)
            counts[meaning] = number + 1
            taps[meaning.format(number)] = change(output)

        return hook

    method.fuse.register_forward_hook(record("fused feature, step {}"))
    method.time.register_forward_hook(record("time vector, step {}"))
    method.decoder.register_forward_hook(
        record("decoder tokens, step {}, as (h, w, c)", lambda x: x[0].movedim(0, -1))
    )
    method.predict.register_forward_hook(record("logits at stride 4, step {}"))
    image, noise = read_inputs(golden)
    backbone = method.backbone
    pixels = image * backbone.std + backbone.mean

    with torch.inference_mode():
        levels = backbone(pixels).features
        taps |= {f"encoder level {i}": level for i, level in enumerate(levels)}
        taps["conditioning feature, stride 4"] = method.features(Inputs(pixels))
        output = model(Inputs(pixels), draws=RecordedNoise(noise))
        state = noise
        for number, pair in enumerate(method.sampler.times()):
            now, following = (torch.tensor([one]) for one in pair)
            maps = taps[f"logits at stride 4, step {number}"]
            taps[f"argmax over classes, step {number}"] = maps.argmax(dim=1)
            if method.spec.bounds is not None:
                value = maps.relu() + method.low
                taps[f"prediction of step {number}, stride 4"] = value
                state = ddim_step(
                    method.noise, state, method._encoded(value, noise), now, following
                )
                taps[f"state after step {number}"] = state

    taps["output"] = model.task.to_label(output) if method.spec.bounds else output.maps
    return taps


def assert_taps_agree(golden: Golden, taps: dict[str, Tensor]) -> None:
    for name, tap in golden.about["taps"].items():
        meaning = tap["of"]
        if name.startswith("out"):
            value = taps["output"]
            value = value.argmax(dim=1) if name.endswith("argmax") else value
        elif meaning in taps:
            value = taps[meaning]
        else:
            assert tap["slice"] is None, (name, meaning)
            continue
        if name.endswith("argmax"):
            assert np.array_equal(value.numpy().squeeze(), golden.arrays[name].squeeze()), name
        else:
            assert_agrees(golden, name, value)


@pytest.mark.parametrize("path", golden_paths("ddp_seg"), ids=lambda path: path.stem)
def test_segmentation_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    names = None if settings["num_classes"] == 150 else CLASSES
    model, report = convert_ddp_segmentation(
        checkpoint(golden), names=names, accumulate=settings["accumulation"]
    )
    assert not report.unused
    assert not report.missing
    sampler = model.method.sampler
    assert (sampler.steps, sampler.seeds) == (settings["steps"], settings["seeds"])
    assert sampler.time_difference == settings["time_difference"]
    assert model.method.encoding.scale == settings["bit_scale"]
    assert_taps_agree(golden, run(model, golden))


@pytest.mark.parametrize("path", golden_paths("ddp_depth"), ids=lambda path: path.stem)
def test_depth_agrees_with_the_authors_at_every_tap(path: Path) -> None:
    golden = read_golden(path)
    settings = golden.about["settings"]
    model, report = convert_ddp_depth(checkpoint(golden), max_depth_m=settings["max_depth_m"])
    assert not report.unused
    assert not report.missing
    method = model.method
    assert (method.decoder.time_width is not None) == settings["time_film_in_layers"]
    assert method.encoding.scale == settings["bit_scale"]
    assert_taps_agree(golden, run(model, golden))


def read_schedules() -> dict[str, np.ndarray]:
    with np.load(BUNDLED / "ddp_schedules" / "schedules.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(("name", "noise"), [("cosine", CosineNoise()), ("linear", LinearNoise())])
def test_noise_schedules_equal_those_of_the_authors_in_32_bit(name: str, noise: Any) -> None:
    arrays = read_schedules()
    time = torch.from_numpy(arrays["t"])
    alpha, sigma = noise.levels(time)
    levels = {"log_snr": noise.log_snr(time), "alpha": alpha, "sigma": sigma}
    for part, values in levels.items():
        np.testing.assert_allclose(
            values.numpy(), arrays[f"{name}_{part}"], rtol=1e-6, err_msg=part
        )
    assert float(CosineNoise().log_snr(torch.ones(1))) == pytest.approx(-18.9075, abs=1e-4)
    np.testing.assert_allclose((alpha**2 + sigma**2).numpy(), 1, rtol=1e-6)


def test_time_pairs_equal_those_of_the_authors() -> None:
    arrays = read_schedules()
    compared = 0
    for name, pairs in arrays.items():
        if not name.startswith("seg_pairs_"):
            continue
        steps, difference, start = name.removeprefix("seg_pairs_s").replace("td", "").split("_")
        options = {"time_difference": float(difference), "start": float(start.removeprefix("lo"))}
        ours = np.array(time_pairs(int(steps), **options), dtype=np.float32)
        assert np.array_equal(ours, pairs), name
        compared += 1
    assert compared == 16


def test_sampling_steps_of_depth_equal_those_of_the_authors() -> None:
    arrays = read_schedules()
    noise = UnclampedCosineNoise()
    time = torch.from_numpy(arrays["t"])
    gamma = noise.levels(time)[0] ** 2
    np.testing.assert_allclose(gamma.numpy(), arrays["depth_gamma"], rtol=1e-6, atol=1e-9)
    shape = (1, 1, 8, 8)
    state = torch.from_numpy(fill_rule.normal("ddp_schedules/x_t", shape))
    predicted = 0.15 * torch.from_numpy(fill_rule.normal("ddp_schedules/x_pred", shape))
    for name in arrays:
        if name.startswith("depth_ddim_"):
            pair = torch.from_numpy(arrays[name.replace("ddim", "pair")])
            now, following = pair[:1], pair[1:]
            ours = ddim_step(noise, state, predicted.clamp(-0.1, 0.1), now, following)
            np.testing.assert_allclose(ours.numpy(), arrays[name], rtol=1e-5, atol=1e-6)
