"""Several noises of one image: their mean, and what does not depend on them computed once."""

from pathlib import Path

import pytest
import torch
from tests.support import images

from diffsight.codecs import Discrete
from diffsight.hub.task_file import Base
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.methods import FewShot
from diffsight.model import DenseModel
from diffsight.tasks import Classes
from diffsight.types import Draws, Inputs


@pytest.fixture(scope="module")
def model(pipeline_folder: Path) -> DenseModel:
    torch.manual_seed(0)
    base = Base.load(pipeline_folder)
    method = FewShot(num_outputs=3, backbone=base.backbone)
    colours = ((0, 0, 0), (255, 0, 0), (0, 0, 255))
    task = Classes(Discrete(3), ids=(0, 1, 2), names=("a", "b", "c"), colours=colours)
    return DenseModel(task=task, method=lambda num_outputs: method).eval()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_answer_is_the_mean_over_noises(batch_size, model, monkeypatch) -> None:
    pictures, passes = list(images(2, 64, 64)), []
    expected = []
    for picture in pictures:
        with torch.inference_mode():
            draws = [Draws((noise,)) for noise in range(3)]
            rows = [model.method(Inputs(picture[None]), draws=one).maps for one in draws]
        assert not torch.allclose(rows[0], rows[1], rtol=1e-4)
        expected.append(torch.cat(rows).mean(dim=0).amax(dim=0))
    backbone = model.method.backbone
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda x, **o: passes.append(len(x)) or encode(x, **o))
    predictor = Predictor(model, Plan(noises=3, batch_size=batch_size))
    found = [prediction.confidence for prediction in predictor(pictures)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    assert sum(passes) == len(pictures)
