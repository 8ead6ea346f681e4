"""``fit`` with few-shot methods: bins are fitted, and feature statistics computed."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import assert_same_weights
from tests.training.conftest import Stripes

import diffsight
import diffsight.assets
from diffsight.backbones import ClipVision, StableDiffusion
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.hub import read_baselines, read_config
from diffsight.methods import FeatureHead, FewShot
from diffsight.methods.conditioned import Conditioned
from diffsight.prompts import Unprompted
from diffsight.tasks import AbstractTask, Depth, Normals, Segmentation
from diffsight.training.checkpoints import KEY, load
from diffsight.training.fit import Fitted, fit
from diffsight.training.optim import AdamW

SIDE = 32


class Halves(AbstractDataset):
    """Images with a bright and a dark part, labelled with two classes and with normals."""

    name = "halves"

    def __init__(self, length: int = 4) -> None:
        self.length = length
        self.class_names = {"semantic": ("dark", "bright")}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, SIDE, SIDE), 30, dtype=torch.uint8)
        image[:, :, : 16 + 8 * index] = 220
        bright = image[0] > 100
        noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index)) / 5
        normals = torch.where(bright, 1.0, -1.0) * torch.tensor([0.6, 0.0, 0.8])[:, None, None]
        normals = torch.nn.functional.normalize(normals + noise, dim=0)
        labels = {"semantic": bright.long(), "normals": normals}
        valid = torch.ones(SIDE, SIDE, dtype=torch.bool)
        return Sample(f"half_{index}", image, labels, dict.fromkeys(labels, valid))


def few_shot() -> Any:
    backbone = StableDiffusion("tiny", trainable=())
    return partial(FewShot, backbone=backbone, codebook=2, vision=ClipVision("tiny"))


def feature_head() -> Any:
    prompts = Unprompted.from_folder(diffsight.assets.find("tiny"), 16)
    backbone = Conditioned(StableDiffusion("tiny", trainable=()), prompts)
    return partial(FeatureHead, backbone=backbone)


def trained(out: Path, method: Any, task: AbstractTask, data: AbstractDataset, **options: Any):
    settings = {"steps": 2, "batch_size": 2, "workers": 0, "device": "cpu", "out": out}
    optim = AdamW(lr=1e-2, weight_decay=0.0, no_decay="none")
    return fit(task=task, method=method, train=data, val=data, optim=optim, **settings | options)


@pytest.mark.parametrize("make", [few_shot, feature_head])
@pytest.mark.parametrize(
    ("task", "data", "protocol"),
    [
        (Depth(bins=5), Stripes(length=4, side=SIDE), "rooms-v1"),
        (Segmentation(["dark", "bright"]), Halves(), "classes-v1"),
        (Normals(bins="auto"), Halves(), None),
    ],
    ids=["depth", "segmentation", "normals"],
)
def test_methods_for_few_labels_are_fitted_evaluated_and_loaded(
    make: Any,
    task: AbstractTask,
    data: AbstractDataset,
    protocol: str | None,
    embedded: Path,
    tmp_path: Path,
) -> None:
    fitted = trained(tmp_path / "run", make(), task, data, protocol=protocol)
    assert isinstance(fitted, Fitted)
    model = fitted.model.eval()
    assert not model.task.needs_fitting
    if make is feature_head:
        assert float(model.method.get_buffer("scale0").std()) > 0, "statistics were not taken"
        assert float(model.method.prior.std()) > 0
    names = load(tmp_path / "run" / "last.ckpt")["state_dict"]
    assert not [name for name in names if ".backbone.unet." in name or ".backbone.vae." in name]
    config = read_config(tmp_path / "run")
    assert {entry["source"] for entry in config["frozen"].values()} == {"tiny"}
    again = diffsight.load(tmp_path / "run")
    assert_same_weights(again, model)
    assert again.info["short_side"] == SIDE
    prediction = diffsight.pipeline(tmp_path / "run", device="cpu")(data[0].image)
    assert prediction.hw == (SIDE, SIDE)
    evaluation = diffsight.evaluate(tmp_path / "run", dataset=data, device="cpu")
    assert evaluation.scores["model"][model.task.metric_name] >= 0
    assert set(evaluation.scores) == {"model", *read_baselines(tmp_path / "run")}


def test_resuming_a_training_with_fitted_bins_gives_the_same_model(
    embedded: Path, tmp_path: Path
) -> None:
    data, options = Stripes(length=4, side=SIDE), {"checkpoint_every": 1, "seed": 3}
    whole = trained(tmp_path / "whole", few_shot(), Depth(bins=5), data, steps=3, **options)
    trained(tmp_path / "run", few_shot(), Depth(bins=5), data, steps=2, **options)
    assert load(tmp_path / "run" / "last.ckpt")[KEY]["schedule"]["step"] == 2
    again = trained(
        tmp_path / "run", few_shot(), Depth(bins=5), data, steps=3, resume=True, **options
    )
    assert_same_weights(again.model, whole.model)
