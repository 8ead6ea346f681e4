"""Meta Prompts on a few labelled rooms, with the embedded model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_rooms import write_labelled_rooms

import diffsight
from diffsight.backbones import BackboneSource
from diffsight.cli import main
from diffsight.hub import read_config
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel


@pytest.mark.parametrize("kind", ["segmentation", "depth"])
def test_a_model_is_trained_on_rooms_and_predicts(kind: str, tmp_path: Path) -> None:
    images, labels = write_labelled_rooms(tmp_path / "data", kind=kind, count=3, size=64)
    out = tmp_path / "model.safetensors"
    command = ["adapt", "--images", str(images), "--labels", str(labels), "--kind", kind]
    command += ["--method", "meta_prompts", "--backbone", "tiny", "--steps", "2"]
    command += ["--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    info = read_config(out)["info"]
    assert info["chosen"] == "meta_prompts"
    assert set(info["held_out"]) >= {"meta_prompts", "constant"}
    assert all(np.isfinite(value) for value in info["held_out"].values())

    model = diffsight.load(out)
    assert isinstance(model.method, MetaPrompts)
    assert model.method.passes == 3
    fresh = DenseModel(task=model.task, method=MetaPrompts.from_backbone(BackboneSource("tiny")))
    before, after = fresh.state_dict(), model.state_dict()
    moved = {name for name, value in before.items() if not value.equal(after[name])}
    assert "method.backbone.unet.conv_out.weight" in moved  # passes 2 and 3 read its output
    assert not [name for name in moved if name.startswith("method.backbone.vae.")]

    command = ["predict", str(images / "r0.png"), "--model", str(out), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "p")]) == 0
    about = json.loads((tmp_path / "p" / "r0.json").read_text())
    assert about["size"] == [64, 64]
    if kind == "segmentation":
        predicted = np.asarray(Image.open(tmp_path / "p" / about["classes"]))
        known = [np.unique(np.asarray(Image.open(path))) for path in labels.iterdir()]
        assert set(np.unique(predicted)) <= set(np.concatenate(known))
    else:
        millimetres = np.asarray(Image.open(tmp_path / "p" / about["depth"]))
        assert millimetres.shape == (64, 64)
        assert 0 < millimetres.min() <= millimetres.max()
