"""Helpers of the parity tests: golden arrays, checkpoints, inputs and comparison.

A golden file holds arrays that the authors' code computed with weights and inputs made by a fixed
rule (``fill_rule``).
"""

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffsight.types import Pyramid
from tests.parity import fill_rule

BUNDLED = Path(__file__).parent
ROOT = Path(os.environ.get("DIFFSIGHT_PARITY_DIR") or BUNDLED)
STEP = " with s = max(1, width // 16)"
TOLERANCE = 2e-4  # of the golden array's largest absolute value


@dataclass(frozen=True)
class Golden:
    """One recorded run of the authors' code: its folder, description and arrays."""

    folder: Path
    about: dict
    arrays: dict[str, np.ndarray]


def golden_paths(model: str) -> list[Any]:
    """Return the recorded runs of a model; a skipped one if another folder lacks the model."""
    folder = ROOT / model
    if ROOT != BUNDLED and ROOT.is_dir() and not folder.exists():
        skip = pytest.mark.skip(reason=f"DIFFSIGHT_PARITY_DIR: no {model} in {ROOT}")
        return [pytest.param(folder, marks=skip)]
    paths = sorted(folder.glob("golden*.npz"))
    assert paths, f"no golden*.npz in {folder}"
    return paths


def read_golden(path: Path) -> Golden:
    about = json.loads(path.with_suffix(".json").read_text())
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return Golden(path.parent, about, arrays)


def checkpoint(golden: Golden) -> dict[str, Tensor]:
    """Return the original state dict; every filled entry is checked against its CRC-32."""
    manifest = json.loads((golden.folder / golden.about["manifest"]).read_text())
    state = {}
    for key, entry in manifest.items():
        if "alias_of" in entry:
            source = entry["alias_of"]
            state[key] = state.get(source, _filled(source, manifest[source]))
        elif entry.get("fill", True):
            state[key] = _filled(key, entry)
        elif "value" in entry:
            value = np.array(entry["value"], dtype=entry["dtype"]).reshape(entry["shape"])
            state[key] = torch.from_numpy(value)
    return state


def _filled(key: str, entry: dict) -> Tensor:
    value = np.ascontiguousarray(fill_rule.fill(key, entry["shape"]), dtype=np.float32)
    assert f"{zlib.crc32(value.tobytes()):08x}" == entry["crc32"], key
    return torch.from_numpy(value)


def image(golden: Golden) -> Tensor:
    """Return the input image in [0, 1], before it is scaled to the range of the model."""
    recipe = golden.about["inputs"]["image"]
    assert recipe["rule"] == "image"
    assert recipe["range"].startswith("[0,1]")
    return torch.from_numpy(fill_rule.image(recipe["name"], recipe["shape"]))


def tokens(golden: Golden) -> Tensor:
    recipe = golden.about["inputs"]["input_ids"]
    assert recipe["rule"] == "tokens"
    return torch.from_numpy(fill_rule.tokens(recipe["name"], *recipe["shape"]))


def record_taps(method: nn.Module) -> dict[str, Tensor]:
    """Return a dictionary that the next pass fills: latent, condition, UNet features and maps."""
    taps: dict[str, Tensor] = {}
    method.backbone.vae.register_forward_hook(
        lambda *a: taps.update(latent=a[2], latent_undivided=a[2])
    )
    method.prompts.register_forward_hook(lambda *a: taps.update(c_crossattn=a[2]))

    def record(_: nn.Module, args: tuple[Pyramid]) -> None:
        taps.update({f"unet.{i}": feature for i, feature in enumerate(args[0].features)})
        names = {1: "attn32", 2: "attn16"}
        taps.update({names[level]: maps for level, maps in args[0].attention.items()})

    first = getattr(method, "refine", None) or method.neck or method.head
    first.register_forward_pre_hook(record)
    return taps


def assert_agrees(golden: Golden, name: str, ours: Tensor) -> None:
    """Compare one recorded array with the same slice of ours."""
    expected = golden.arrays[name]
    cut = golden.about["taps"][name]["slice"]
    actual = ours.detach().float().numpy()
    if cut:
        # goldens are trusted files; a slice such as [:, ::4], or with a step from the width
        names = {"np": np, "s": max(1, actual.shape[-1] // 16)}
        index = eval(f"np.s_{cut.removesuffix(STEP)}", names)
        actual = actual[index]
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    assert error <= TOLERANCE, f"{name}: {error:.1e} of the maximum"
