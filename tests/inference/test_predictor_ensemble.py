"""Ensembles of passes with different noise: their mean, and shared encodings."""

from pathlib import Path

import pytest
import torch
from tests.support import images
from tests.support_inference import Brightness, Jitter
from tests.support_inference import model as model_of

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
    confidences = [prediction.confidence for prediction in predictor(pictures)]
    torch.testing.assert_close(torch.stack(confidences), torch.stack(expected))
    assert sum(encoded) == len(pictures)  # each image is encoded once


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_passes_of_all_windows_are_averaged_and_have_an_uncertainty(batch_size) -> None:
    pictures = list(images(2, 9, 12))
    plan = Plan(windows=2, ensemble_size=3, batch_size=batch_size)
    noise = torch.stack([Draws((member,)).uniform(0)[0] for member in range(3)])
    ensemble = list(Predictor(model_of(Jitter), plan)(pictures))
    single = list(Predictor(model_of(Brightness), Plan(windows=2))(pictures))
    for a, b in zip(ensemble, single, strict=True):
        torch.testing.assert_close(a.depth_m, b.depth_m + noise.mean())
        assert (a.uncertainty_m > 0.5 * noise.std(correction=0)).all()


def test_the_plan_describes_the_ensemble_and_counts_its_passes() -> None:
    assert Plan(ensemble_size=3).describe().endswith(", ensemble of 3")
    assert Plan(ensemble_size=3, flip=True).passes(8, 8) == 6
