"""Options of ``adapt``: the spacing of bins, and options that are refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import assert_same_weights, run, write_pictures

import diffsight
from diffsight import hub
from diffsight.backbones import BackboneSource
from diffsight.cli.show import describe
from diffsight.errors import InputError


def test_bins_of_depth_have_logarithmic_spacing_by_default(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, count=2)
    options = {"method": "feature_head", "steps": 1, "bins": 4, "mirror": False}
    edges = {
        spacing: run(folder, backbone, "depth", spacing=spacing, **options).task.codec.edges
        for spacing in (None, "log", "linear")
    }
    assert torch.equal(edges[None], edges["log"])
    steps = edges["linear"].diff()
    torch.testing.assert_close(steps, steps[:1].expand(4))
    ratios = edges["log"].log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"stepz": 3}, "unknown option 'stepz': did you mean 'steps'"),
        ({"dtype": "float16"}, "float16 needs: choose bfloat16"),
        ({"dtype": "half"}, "unknown dtype 'half'"),
        ({"classes": "no/names.txt"}, "no/names.txt: cannot be read"),
    ],
)
def test_wrong_options_of_adapt_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        diffsight.adapt("images", "labels", kind="segmentation", **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [("feature_head", {"alpha": math.inf}), ("few_shot:alpha=.inf", {})],
)
def test_a_model_of_the_squared_error_alone_is_saved_and_loaded(
    method: str, options: dict[str, Any], backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, count=2)
    model = run(folder, backbone, method=method, steps=1, mirror=False, **options)
    for name in ("model", "model.safetensors"):
        path = hub.save(model, tmp_path / name)
        json.dumps(hub.read_config(path), allow_nan=False)  # JSON has no infinity
        again = hub.load(path)
        assert again.task.alpha == math.inf
        assert again.info["alpha"] == ".inf"
        assert "alpha .inf" in describe(hub.read_config(path), name)
        assert_same_weights(again, model)
