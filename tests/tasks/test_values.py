"""Values per pixel: losses computed by hand, uncertainty, bins of scalars and vectors."""

import math

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import images, noise

from diffsight.errors import InputError
from diffsight.outputs import Distribution, expectation
from diffsight.outputs import Values as ValuesOutput
from diffsight.tasks import Normals, Values
from diffsight.types import Target


def scalars(**options) -> Values:
    task = Values(bins=8, spacing="linear", unit="K", **options)
    return task.fitted(torch.linspace(1, 5, 500)[:, None])


def vectors() -> Values:
    return Values(channels=2, bins=10).fitted(noise(1000, 2))


def distribution(task: Values | Normals, hw: tuple[int, int] = (6, 8), batch: int = 2):
    """Return random probabilities with their expected values."""
    codec = task.codec
    assert codec is not None
    probability = noise(batch, codec.num_classes, *hw, seed=2).softmax(dim=1)
    return Distribution(probability, expectation(probability, codec.centres[None]), codec.centres)


class TestScalars(TaskContract):
    channels = 1

    def build(self) -> Values:
        return Values(channels=self.channels)

    def target(self) -> Target:
        label = images(2, *self.size)[:, : self.channels] * 4 + 1
        valid = images(2, *self.size, seed=3)[:, 0] > 0.3
        return Target(torch.where(valid[:, None], label, math.inf), valid)


class TestScalarsWithBins(TestScalars):
    def build(self) -> Values:
        target = self.target()
        values = target.label.movedim(1, -1)[target.valid]
        return Values(channels=self.channels, bins=8).fitted(values)


class TestVectors(TestScalars):
    channels = 2


class TestVectorsWithCodebook(TestScalarsWithBins):
    channels = 3


@pytest.mark.parametrize("build", [scalars, vectors])
def test_the_loss_of_a_distribution_equals_one_computed_by_hand(build) -> None:
    task = build()
    output = distribution(task)
    label = images(2, 6, 8)[:, : task.channels] * 3 + 1
    target = Target(label, images(2, 6, 8, seed=3)[:, 0] > 0.3)
    losses = task.loss(output, target)
    soft = task.codec.encode(label).distribution(task.codec.num_classes)
    nll = -(soft * output.probability.log()).sum(dim=1)[target.valid].mean()
    torch.testing.assert_close(losses["class"], nll)
    value = torch.einsum("bnhw,nd->bdhw", output.probability, task.codec.centres)
    squared = ((value - label) / task.codec.label_std[:, None, None]).square().mean(dim=1)
    torch.testing.assert_close(losses["value"], squared[target.valid].mean())
    torch.testing.assert_close(losses["loss"], losses["class"] + losses["value"])


def test_with_infinite_alpha_the_loss_is_the_squared_error_alone() -> None:
    task = scalars(alpha=math.inf)
    output = distribution(task)
    label, valid = images(2, 6, 8)[:, :1] * 4 + 1, torch.ones(2, 6, 8, dtype=torch.bool)
    losses = task.loss(output, Target(label, valid))
    error = (output.value - label) / torch.linspace(1, 5, 500).std()
    torch.testing.assert_close(losses["loss"], error.square().mean())
    assert losses.keys() == {"loss", "value"}


def test_the_loss_of_values_is_divided_by_the_variance_of_the_labels() -> None:
    label, maps = images(2, 6, 8)[:, :1] * 4 + 1, noise(2, 1, 6, 8)
    target = Target(label, torch.ones(2, 6, 8, dtype=torch.bool))
    plain = Values().loss(ValuesOutput(maps), target)["loss"]
    torch.testing.assert_close(plain, (maps - label).square().mean())
    scaled = scalars().loss(ValuesOutput(maps), target)["loss"]
    torch.testing.assert_close(scaled, plain / torch.linspace(1, 5, 500).var())


def test_the_uncertainty_is_exact_for_values_far_from_zero() -> None:
    labels = torch.linspace(299.9, 300.1, 500)[:, None]
    task = Values(bins=8, spacing="linear", unit="K").fitted(labels)
    output = distribution(task, (4, 5), batch=1)
    (prediction,) = task.decode(output)
    p, x = output.probability[0].double(), output.centres.double()[:, :, None]
    mean = (p * x).sum(dim=0)
    expected = (p * (x - mean).square()).sum(dim=0).sqrt()
    torch.testing.assert_close(prediction.uncertainty.double(), expected, rtol=1e-4, atol=0)


def test_the_metric_is_the_root_mean_squared_error() -> None:
    task, everywhere = Values(), torch.ones(1, 1, 2, dtype=torch.bool)
    target = Target(torch.tensor([[[[2.0, 2.0]]]]), everywhere)
    score = task.score(task.measure(torch.tensor([[[[1.0, 5.0]]]]), target))
    assert score == pytest.approx(math.sqrt(5))
    assert Values(unit="K").metric_name == "RMSE, K"
    assert Values().metric_name == "RMSE"


def test_predictions_have_the_unit_and_the_range_of_the_task() -> None:
    (scalar,) = scalars().decode(distribution(scalars(), (4, 4), batch=1))
    assert scalar.unit == "K"
    codec = scalars().codec
    assert codec is not None
    low, high = codec.centres.min(), codec.centres.max()
    assert scalar.display.low == (float(low),)
    assert scalar.display.high == (float(high),)
    assert scalar.metadata()["unit"] == "K"
    assert scalar.arrays()["values"].values.shape == (4, 4)
    (vector,) = vectors().decode(distribution(vectors(), (4, 4), batch=1))
    assert vector.arrays()["values"].values.shape == (4, 4, 2)


def test_scalars_are_mirrorable_and_vectors_are_not() -> None:
    assert Values().is_mirrorable
    assert not Values(channels=2).is_mirrorable


def test_bins_auto_makes_no_more_bins_than_different_labels() -> None:
    few = torch.tensor([0.0, 1.0, 4.0]).repeat(30)[:, None]
    task = Values(bins="auto")
    assert task.outputs[0].channels == 20
    assert Values(channels=2, bins="auto").outputs[0].channels == 40
    assert task.fitted(few).bins == 3
    with pytest.raises(InputError, match="7 bins, but the labels have only 3 different values"):
        Values(bins=7).fitted(few)
    with pytest.raises(InputError, match="every label is 2"):
        task.fitted(torch.full((9, 1), 2.0))
