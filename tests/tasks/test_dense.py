"""Tasks of the user's own: losses by hand, figures by hand, what a mirror does."""

import math

import pytest
import torch
from tests.support import images, noise
from torch.nn import functional

from diffsight.codecs import Discrete, ScalarBins, VectorWords, expectation
from diffsight.heads import Codebook
from diffsight.tasks import AbstractDense, Classes, Directions, Scalars, Vectors
from diffsight.types import ClassPrediction, DepthPrediction, RawOutput, Target, ValuePrediction

COLOURS = ((0, 0, 0), (255, 0, 0), (0, 0, 255))


def classes() -> Classes:
    return Classes(Discrete(3), ids=(0, 7, 40), names=("wall", "chair", "lamp"), colours=COLOURS)


def scalars(**options) -> Scalars:
    labels = torch.linspace(1, 5, 500)[:, None]
    codec = ScalarBins.fit(labels, 8, spacing="linear", limits=(1.0, 5.0))
    return Scalars(codec, spread=labels.std(dim=0), unit="K", **options)


def directions() -> Directions:
    units = functional.normalize(noise(2000, 3), dim=1)
    codec = VectorWords.fit(units, 20, spherical=True, soft=True)
    return Directions(codec, spread=units.std(dim=0))


def vectors() -> Vectors:
    labels = noise(1000, 2)
    return Vectors(VectorWords.fit(labels, 10), spread=labels.std(dim=0))


def label_of(task: AbstractDense, b: int = 2, h: int = 6, w: int = 8) -> torch.Tensor:
    match task:
        case Classes():
            return torch.randint(
                0, 3, (b, 1, h, w), generator=torch.Generator().manual_seed(1)
            ).float()
        case Scalars():
            return images(b, h, w)[:, :1] * 4 + 1
        case Directions():
            return functional.normalize(noise(b, 3, h, w, seed=4), dim=1)
    return noise(b, 2, h, w, seed=4)


TASKS = (classes, scalars, directions, vectors)


def target_of(task: AbstractDense) -> Target:
    label = label_of(task)
    return Target(label, images(2, *label.shape[-2:], seed=3)[:, 0] > 0.3)


@pytest.mark.parametrize("build", TASKS)
def test_loss_by_hand(build) -> None:
    task = build()
    target = target_of(task)
    maps = noise(2, task.num_outputs, 6, 8, seed=2).softmax(dim=1)
    found = task.loss(RawOutput(maps, "probability"), target)
    share = task.codec.encode(target.label).distribution(task.num_outputs)
    surprise = -(share * maps.log()).sum(dim=1)[target.valid].mean()
    torch.testing.assert_close(found["class"], surprise)
    if task.spread is None:
        assert found["loss"] == found["class"]
        return
    value = torch.einsum("bnhw,nd->bdhw", maps, task.codec.centres)
    gap = ((value - target.label) / task.spread[:, None, None]).square().mean(dim=1)
    torch.testing.assert_close(found["value"], gap[target.valid].mean())
    torch.testing.assert_close(found["loss"], found["class"] + found["value"])


@pytest.mark.parametrize("build", TASKS)
def test_labels_without_pixels_cost_nothing_and_keep_their_graph(build) -> None:
    task = build()
    maps = noise(2, task.num_outputs, 6, 8).requires_grad_()
    target = Target(label_of(task), torch.zeros(2, 6, 8, dtype=torch.bool))
    loss = task.loss(RawOutput(maps.softmax(dim=1), "probability"), target)["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert not maps.grad.any()


def test_an_infinite_alpha_is_a_regression() -> None:
    label, valid = label_of(scalars()), torch.ones(2, 6, 8, dtype=torch.bool)
    raw = RawOutput(noise(2, 1, 6, 8), "value", {"value": noise(2, 1, 6, 8)})
    losses = scalars(alpha=math.inf).loss(raw, Target(label, valid))
    spread = torch.linspace(1, 5, 500).std()
    gap = (raw.auxiliary["value"] - label) / spread
    torch.testing.assert_close(losses["loss"], gap.square().mean())
    assert losses.keys() == {"loss", "value"}


def test_values_keep_their_digits_in_mixed_precision() -> None:
    """Kelvins: eight bits would be steps of two."""
    centres = torch.linspace(282, 316, 20)[:, None]
    probability = noise(2, 20, 8, 8).softmax(dim=1)
    codebook = Codebook(centres, centres.std(dim=0), size=3, features=4)
    features = noise(2, 4)
    values = codebook(features, 2)
    exact = expectation(probability, values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook(features, 2), values)
        assert torch.equal(expectation(probability, values), exact)
        rough = expectation(probability.bfloat16(), values)
    assert rough.dtype == torch.float32
    assert len(exact.unique()) > 100


def test_the_spread_of_values_far_from_zero() -> None:
    labels = torch.linspace(299.9, 300.1, 500)[:, None]
    task = Scalars(ScalarBins.fit(labels, 8, spacing="linear"), spread=labels.std(dim=0), unit="K")
    maps = noise(1, 8, 4, 5).softmax(dim=1)
    (found,) = task.decode(RawOutput(maps, "probability"))
    assert isinstance(found, ValuePrediction)
    p, x = maps[0].double(), task.codec.centres.double()[:, :, None]  # type: ignore[union-attr]
    mean = (p * x).sum(dim=0)
    expected = (p * (x - mean).square()).sum(dim=0).sqrt()
    torch.testing.assert_close(found.uncertainty.double(), expected, rtol=1e-4, atol=0)


def test_invalid_labels_may_be_anything() -> None:
    task = scalars()
    label = label_of(task)
    valid = label[:, 0] > 2
    broken = torch.where(valid[:, None], label, torch.nan)
    raw = RawOutput(noise(2, 8, 6, 8).softmax(dim=1), "probability")
    assert task.loss(raw, Target(broken, valid))["loss"].isfinite()
    assert torch.equal(
        task.measure(raw, Target(broken, valid)), task.measure(raw, Target(label, valid))
    )


@pytest.mark.parametrize("build", TASKS)
def test_the_truth_scores_best_and_the_constant_worse(build) -> None:
    task = build()
    target = target_of(task)
    perfect = task.score(task.measure(task.as_output(target.label), target))
    constant = task.constant(target.label, target.valid)
    blind = task.as_output(constant[None, :, None, None].expand_as(target.label))
    worse = task.score(task.measure(blind, target))
    assert perfect == pytest.approx(100 if task.higher_is_better else 0, abs=1e-3)
    assert (worse < perfect) == task.higher_is_better
    parts = [
        task.measure(
            RawOutput(
                blind.maps[i : i + 1],
                "probability",
                {k: v[i : i + 1] for k, v in blind.auxiliary.items()},
            ),
            Target(target.label[i : i + 1], target.valid[i : i + 1]),
        )
        for i in range(2)
    ]
    assert task.score(parts[0] + parts[1]) == pytest.approx(worse)


def test_figures_by_hand() -> None:
    label = torch.tensor([0, 0, 1, 1, 2, 2]).float().reshape(1, 1, 2, 3)
    found = torch.tensor([0, 1, 1, 1, 0, 2]).reshape(1, 2, 3)
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    maps = functional.one_hot(found, 3).movedim(-1, 1).float()
    task = classes()
    score = task.score(task.measure(RawOutput(maps, "probability"), Target(label, valid)))
    assert score == pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3)
    task = directions()
    value = torch.tensor([[0.0, 0, 2], [0, 3, 0]]).T.reshape(1, 3, 1, 2)
    truth = torch.tensor([[0.0, 0, 1], [0, 1, 1]]).T.reshape(1, 3, 1, 2)
    raw = RawOutput(torch.full((1, 20, 1, 2), 0.05), "probability", {"value": value})
    everywhere = torch.ones(1, 1, 2, dtype=torch.bool)
    assert task.score(task.measure(raw, Target(truth, everywhere))) == pytest.approx(22.5)
    task = scalars()
    raw = RawOutput(
        torch.full((1, 8, 1, 2), 1 / 8), "probability", {"value": torch.tensor([[[[1.0, 5]]]])}
    )
    found = task.score(task.measure(raw, Target(torch.tensor([[[[2.0, 2]]]]), everywhere)))
    assert found == pytest.approx(math.sqrt(5))


def test_predictions_say_what_they_are() -> None:
    (one, _) = classes().decode(RawOutput(noise(2, 3, 4, 4).softmax(dim=1), "probability"))
    assert isinstance(one, ClassPrediction)
    assert set(one.ids.unique().tolist()) <= {0, 7, 40}
    assert one.names[40] == "lamp"
    raw = RawOutput(noise(1, 8, 4, 4).softmax(dim=1), "probability")
    (one,) = scalars().decode(raw)
    assert isinstance(one, ValuePrediction)
    assert one.unit == "K"
    centres = scalars().codec.centres[:, 0]
    mean = (raw.maps[0] * centres[:, None, None]).sum(dim=0)
    spread = (raw.maps[0] * (centres[:, None, None] - mean).square()).sum(dim=0).sqrt()
    torch.testing.assert_close(one.uncertainty, spread, atol=1e-4, rtol=1e-4)
    (one,) = scalars(depth=True).decode(raw)
    assert isinstance(one, DepthPrediction)
    torch.testing.assert_close(one.depth_m, mean)
    (one,) = directions().decode(RawOutput(noise(1, 20, 4, 4).softmax(dim=1), "probability"))
    torch.testing.assert_close(one.values.norm(dim=0), torch.ones(4, 4))


@pytest.mark.parametrize("build", TASKS)
def test_a_mirrored_answer_is_that_of_the_mirrored_label(build) -> None:
    task = build()
    label = label_of(task, 1)
    mirrored = task.mirrored(label[0])[None]
    valid = torch.ones(1, 6, 8, dtype=torch.bool)
    back = task.hflip(task.as_output(label))
    assert task.score(task.measure(back, Target(mirrored, valid))) == pytest.approx(
        100 if task.higher_is_better else 0, abs=1e-2
    )


@pytest.mark.parametrize("build", TASKS)
def test_pictures(build) -> None:
    task = build()
    target = target_of(task)
    raw = RawOutput(noise(2, task.num_outputs, 6, 8).softmax(dim=1), "probability")
    truths, found = task.truth(target), task.decode(raw)
    panel = task.panel(images(1, 6, 8)[0], truths[0], found[0])
    assert panel.shape == (3, 6, 32)
    assert panel.dtype == torch.uint8
    assert not torch.equal(panel[..., 8:16], panel[..., 16:24])
    same = task.panel(images(1, 6, 8)[0], truths[0], truths[0])
    assert torch.equal(same[..., 8:16], same[..., 16:24])
    error = same[..., 24:][:, target.valid[0]]
    assert int(error.min()) > 235


def test_some_of_the_classes() -> None:
    task = classes()
    raw = RawOutput(noise(1, 3, 6, 8).softmax(dim=1), "probability")
    ids = {0, 7, 40}
    assert set(task.decode(raw)[0].ids.unique().tolist()) == ids
    (bound,) = task.only(["lamp", "wall"]).decode(raw)
    assert set(bound.ids.unique().tolist()) == {0, 40}
    sure = raw.maps[0, ::2].max(dim=0).values / raw.maps[0, ::2].sum(dim=0)
    torch.testing.assert_close(bound.confidence, sure)
    assert set(task.decode(raw)[0].ids.unique().tolist()) == ids
