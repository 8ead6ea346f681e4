"""An ensemble of passes with different noise: their mean, and what is computed once for all."""

from pathlib import Path

import pytest
import torch
from tests.inference.standins import Blur
from tests.inference.standins import model as model_of
from tests.support import images

from diffsight.backbones import BackboneSource
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.methods import FewShot
from diffsight.model import DenseModel
from diffsight.tasks import Segmentation
from diffsight.types import Draws, Inputs


@pytest.fixture(scope="module")
def model(pipeline_folder: Path) -> DenseModel:
    torch.manual_seed(0)
    method = FewShot.from_backbone(BackboneSource(pipeline_folder))
    return DenseModel(task=Segmentation(["a", "b", "c"]), method=method).eval()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_prediction_is_the_mean_over_the_ensemble(batch_size, model, monkeypatch) -> None:
    pictures, encoded = list(images(2, 64, 64)), []
    expected = []
    for picture in pictures:
        with torch.inference_mode():
            draws = [Draws((member,)) for member in range(3)]
            rows = [model.method(Inputs(picture[None]), draws=one).maps for one in draws]
        assert not torch.allclose(rows[0], rows[1], rtol=1e-4)
        expected.append(torch.cat(rows).mean(dim=0).amax(dim=0))
    backbone = model.method.backbone
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda x, **o: encoded.append(len(x)) or encode(x, **o))
    predictor = Predictor(model, Plan(ensemble_size=3, batch_size=batch_size))
    found = [prediction.confidence for prediction in predictor(pictures)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    assert sum(encoded) == len(pictures)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_a_method_that_encodes_nothing_can_be_an_ensemble(batch_size) -> None:
    pictures = list(images(2, 9, 12))
    plan = Plan(windows=2, ensemble_size=3, batch_size=batch_size)
    many = list(Predictor(model_of(Blur), plan)(pictures, ["office", None]))
    once = list(Predictor(model_of(Blur), Plan(windows=2))(pictures, ["office", None]))
    for a, b in zip(many, once, strict=True):
        torch.testing.assert_close(a.depth_m, b.depth_m)


def test_the_plan_names_the_ensemble() -> None:
    assert Plan(ensemble_size=3).describe().endswith(", ensemble of 3")
    assert Plan(ensemble_size=3, flip=True).passes(8, 8) == 6
