"""Distributions over values are averaged and resized as moments, not class by class."""

import pytest
import torch
from tests.support import images
from tests.support_inference import Probabilities
from torch import Tensor, nn
from torch.nn import functional

from diffsight.inference import predictor
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.model import DenseModel
from diffsight.ops.resize import resize_image
from diffsight.outputs import Distribution, expectation
from diffsight.tasks import AbstractTask, Normals, Prediction, Segmentation, Values
from diffsight.types import Inputs

SIZE, SMALL = (50, 70), (16, 22)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def fitted(kind: str) -> AbstractTask:
    labels = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    if kind == "classes":
        return Segmentation(list("abcdefghijkl"))
    if kind == "scalar":  # far from zero, where squares lose precision
        return Values(bins=12, unit="K", spacing="linear").fitted(300 + labels[:, :1])
    if kind == "normals":
        return Normals(bins=12).fitted(functional.normalize(labels, dim=1))
    return Values(channels=3, bins=12).fitted(labels)


@torch.no_grad()
def predict_from_all_classes(net: DenseModel, picture: Tensor, flip: bool) -> Prediction:
    """Return the prediction whose class probabilities are averaged and resized to the image."""
    small = resize_image(picture[None], SMALL)
    outputs = [net(Inputs(small))]
    if flip:
        outputs.append(net(Inputs(small.flip(-1))).mirrored())
    mean = torch.cat([one.stack for one in outputs]).mean(dim=0)
    return net.task.decode(outputs[0].with_stack(resize_image(mean[None], SIZE)))[0]


@pytest.mark.parametrize(
    ("kind", "maps", "flip"),
    [
        ("scalar", 3, False),
        ("scalar", 3, True),
        ("vector", 9, True),
        ("normals", 9, False),
        ("classes", 12, True),
    ],
)
def test_averaging_moments_and_averaging_all_classes_give_the_same_prediction(
    kind, maps, flip, monkeypatch
) -> None:
    net = DenseModel(task=fitted(kind), method=Probabilities).eval()
    picture, resized = images(1, *SIZE)[0], []
    expected = predict_from_all_classes(net, picture, flip)

    def recorded(stack, hw):
        resized.append((stack.shape[1], hw))
        return resize_image(stack, hw)

    monkeypatch.setattr(predictor, "resize_image", recorded)
    prediction = Predictor(net, Plan(SMALL[0], flip=flip)).one(picture)
    assert {count for count, hw in resized if hw == SIZE} == {maps}
    torch.testing.assert_close(prediction.to_label(), expected.to_label())
    if kind != "classes":
        torch.testing.assert_close(
            prediction.uncertainty, expected.uncertainty, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("plan", [Plan(flip=True), Plan(flip=True, scales=(1.0, 2.0))])
def test_flips_give_the_uncertainty_of_a_codebook_with_mirrored_vectors_added(
    plan,
) -> None:
    """The codebook contains no mirrored vectors; the test adds them to compute the expectation."""
    task = fitted("normals")
    net = DenseModel(task=task, method=Probabilities).eval()
    net.method.conv = nn.Conv2d(3, 12, 1)  # pointwise, so a flip only mirrors the output
    nn.init.zeros_(net.method.conv.bias)
    nn.init.normal_(net.method.conv.weight, generator=torch.Generator().manual_seed(1))
    picture = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(2)).expand(3, 6, 8)
    flipped = Predictor(net, plan).one(picture.contiguous())
    with torch.no_grad():
        probability = net(Inputs(picture[None])).probability / 2
    both = torch.cat([probability, probability], dim=1)
    centres = torch.cat([task.codec.centres, task.codec.centres * MIRROR])
    (expected,) = task.decode(Distribution(both, expectation(both, centres[None]), centres))
    torch.testing.assert_close(flipped.values, expected.values)
    torch.testing.assert_close(flipped.uncertainty, expected.uncertainty, rtol=1e-4, atol=1e-5)
    single = Predictor(net).one(picture.contiguous())
    assert (flipped.uncertainty > single.uncertainty + 0.003).all()
