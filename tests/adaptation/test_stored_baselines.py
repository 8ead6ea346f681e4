"""Baselines of the training labels, stored with an adapted model."""

from pathlib import Path

import torch
from tests.support_adapt import run, write_pictures

from diffsight.backbones import BackboneSource
from diffsight.hub import read_baselines, save
from diffsight.inference.api import evaluate


def test_baselines_of_the_training_labels_are_stored_with_the_model(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, sizes=((96, 128),), count=2)
    model = run(folder, backbone, method="feature_head", steps=1, mirror=False)
    assert model.baselines.keys() == {"constant median", "mean map"}
    path = save(model, tmp_path / "mine.safetensors", embed=False)
    assert path.stat().st_size < 250_000
    stored = read_baselines(path)
    assert stored["mean map"].shape == (48, 64)
    assert all(torch.equal(stored[name], one) for name, one in model.baselines.items())
    found = evaluate(model, images=folder / "images", labels=folder / "labels")
    assert list(found.scores) == ["model", "constant median", "mean map"]
    again = evaluate(path, images=folder / "images", labels=folder / "labels")
    assert list(again.scores) == list(found.scores)
