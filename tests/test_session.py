"""Models from ``adapt``, ``fit`` and a converter are saved, loaded, run and evaluated."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import diffsight
from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.heads import DeconvHead
from diffsight.hub.convert import convert_vpd_depth, vpd
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import Merging
from diffsight.prompts import TextTable
from diffsight.rooms import ROOM_TYPES, Rooms
from diffsight.tasks import Depth
from diffsight.training.optim import AdamW
from tests.support_adapt import assert_same_weights, write_pictures
from tests.support_models import ARCHITECTURE

PARITY = Path(__file__).parent / "parity" / "vpd_depth"
FORMS = ("x", "x.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), "depth", sizes=((64, 64),), count=3)


@pytest.fixture(scope="module")
def adapted(folder: Path, pipeline_folder: Path) -> DenseModel:
    """Return a model made by ``adapt`` on a backbone in a folder."""
    return diffsight.adapt(
        folder / "images",
        folder / "labels",
        kind="depth",
        backbone=BackboneSource(pipeline_folder),
        method="feature_head",
        steps=2,
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> DenseModel:
    """Return a model made by ``fit``."""
    method = partial(
        VPD,
        backbone=StableDiffusion(ARCHITECTURE),
        prompts=TextTable(ROOM_TYPES, dim=8),
        neck=partial(Merging, width=8, groups=4),
        head=partial(DeconvHead, widths=(8, 8, 8), width=8),
    )
    found = diffsight.fit(
        task=Depth(),
        method=method,
        train=Rooms(split="train", count=2, size=64),
        val=Rooms(split="val", count=1, size=64),
        optim=AdamW(lr=1e-3),
        out=tmp_path_factory.mktemp("fit") / "run",
        steps=1,
        batch_size=2,
        workers=0,
        device="cpu",
    )
    return found.model


@pytest.fixture(scope="module")
def converted() -> DenseModel:
    """Return a model converted from a small checkpoint with the authors' names."""
    manifest = json.loads((PARITY / "manifest.json").read_text())
    original = {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in manifest.items()
    }
    _, report = convert_vpd_depth(original)
    layers = {"layers_per_block": 2}
    architecture = {
        "unet": {**ARCHITECTURE["unet"], "block_out_channels": (4, 8, 16, 16), **layers},
        "vae": {**ARCHITECTURE["vae"], "block_out_channels": (2, 4, 8, 8), **layers},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vpd, "StableDiffusion", lambda _: StableDiffusion(architecture))
        patch.setattr(vpd, "Merging", partial(Merging, width=8, groups=4))
        patch.setattr(vpd, "DeconvHead", partial(DeconvHead, widths=(8, 8, 8), width=8))
        signs = {
            "encoder.class_embeddings": torch.randn(27, 8),
            "last_layer_depth.0.weight": torch.randn(8, 8, 3, 3),
        }
        small, _ = convert_vpd_depth(signs, partial=True)
        values = small.state_dict()
        entries = {key: values[ours].clone() for key, ours in report.used.items()}
        model, _ = convert_vpd_depth(entries)
    return model.eval()


@pytest.fixture(params=["adapted", "fitted", "converted"])
def model(request: pytest.FixtureRequest) -> DenseModel:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", FORMS)
def test_a_model_can_be_saved_loaded_run_and_evaluated(
    model: DenseModel, name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    diffsight.save(model, name)
    loaded = diffsight.load(name)
    assert_same_weights(loaded, model.eval())
    photo = folder / "images" / "0.png"
    ours = diffsight.pipeline(model, short_side=64, device="cpu")(photo)
    prediction = diffsight.pipeline(name, short_side=64, device="cpu")(photo)
    torch.testing.assert_close(prediction.depth_m, ours.depth_m, rtol=0, atol=0)
    labels: dict[str, Any] = {"images": folder / "images", "labels": folder / "labels"}
    evaluation = diffsight.evaluate(name, device="cpu", **labels)
    assert evaluation.scores["model"][model.task.metric_name] > 0
    in_memory = diffsight.evaluate(loaded, device="cpu", **labels)
    assert in_memory.scores["model"] == evaluation.scores["model"]
