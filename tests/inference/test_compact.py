"""Answers of many classes are brought to the size of the image as what the task needs of them."""

import pytest
import torch
from tests.inference.standins import Logits
from tests.support import images

from diffsight.codecs import Discrete, ScalarBins, VectorWords, expectation
from diffsight.inference import predictor
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.model import DenseModel
from diffsight.tasks.classes import Classes
from diffsight.tasks.dense import AbstractDense
from diffsight.tasks.directions import Directions
from diffsight.tasks.values import Scalars, Vectors
from diffsight.types import RawOutput

SIZE = (50, 70)


class Probabilities(Logits):
    """The stand-in's, as a distribution over the classes."""

    def forward(self, inputs, target=None, *, draws=None) -> RawOutput:
        return RawOutput(super().forward(inputs).maps.softmax(dim=1), "probability")


def dense(kind: str) -> AbstractDense:
    labels = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    if kind == "classes":
        colours = tuple((i, i, i) for i in range(12))
        return Classes(Discrete(12), ids=range(12), names=list("abcdefghijkl"), colours=colours)
    if kind == "scalars":
        codec = ScalarBins.fit(300 + labels[:, :1], 12)  # far from zero: squares would cancel
        return Scalars(codec, spread=torch.ones(1), unit="K")
    codec = VectorWords.fit(labels, 12, spherical=kind == "directions", soft=True)
    return (Directions if kind == "directions" else Vectors)(codec, spread=torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "maps"), [("scalars", 3), ("vectors", 9), ("directions", 9), ("classes", 12)]
)
@pytest.mark.parametrize("plan", [Plan(16), Plan(16, flip=True), Plan(16, scales=(1.0, 2.0))])
def test_it_comes_to_the_same(kind, maps, plan, monkeypatch) -> None:
    task, resized = dense(kind), []
    net = DenseModel(task=task, method=Probabilities).eval()
    picture = images(1, *SIZE)[0]
    resize = predictor._resize

    def noted(stack, hw):
        resized.append((len(stack), hw))
        return resize(stack, hw)

    monkeypatch.setattr(predictor, "_resize", noted)
    found = Predictor(net, plan).one(picture)
    assert {count for count, hw in resized if hw == SIZE} == {maps}
    monkeypatch.setattr(type(task), "compact", lambda self, raw: raw)  # all classes, at full size
    expected = Predictor(net, plan).one(picture)
    if kind == "classes":
        assert torch.equal(found.ids, expected.ids)
        return
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.uncertainty, expected.uncertainty, rtol=1e-3, atol=1e-4)


def test_the_spread_is_that_of_the_distribution() -> None:
    task = dense("scalars")
    maps = torch.rand(1, 12, 4, 5).softmax(dim=1)
    first = expectation(maps, task.codec.centres[None])
    gap = task.codec.centres[:, 0][:, None, None] - first
    expected = (maps * gap.square()).sum(dim=1).sqrt()
    raw = RawOutput(maps, "probability")
    for one in (raw, task.compact(raw)):
        torch.testing.assert_close(
            task.decode(one)[0].uncertainty, expected[0], rtol=1e-3, atol=1e-4
        )
