"""DDP: sampling steps, seeds and uncertainty."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.support import images, randomise_weights
from tests.support_ddp import (
    NAMES,
    build_ddp_depth,
    build_ddp_segmentation,
    count_passes,
    ddp_parts,
)

from diffsight.diffusion import Sampler
from diffsight.diffusion.sampler import StepAccumulator
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder
from diffsight.inference import Plan, Predictor
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.ops.resize import resize_maps
from diffsight.outputs import Moments, OutputSpec, Values
from diffsight.tasks import Segmentation
from diffsight.types import Draws, Inputs


def test_the_maps_of_several_seeds_are_averaged() -> None:
    model = randomise_weights(build_ddp_segmentation()).eval()
    x, draws, rule = images(1, 64, 64), Draws((5,)), Sampler(steps=1, seeds=2)
    with torch.no_grad():
        features = model.method.features(Inputs(x))
        one = model.method.sample(features, draws, 1).maps
        (both,) = model.method.trajectory(features, draws, rule)
        model.method.sampler = rule
        together = model.method.sample(features, draws).maps
    assert len(both) == 2
    torch.testing.assert_close(both[:1], one)
    torch.testing.assert_close(together, both.mean(dim=0, keepdim=True))
    assert not torch.equal(both[0], both[1])


def test_the_uncertainty_of_classes_counts_changes_between_steps() -> None:
    model = randomise_weights(build_ddp_segmentation(sampler=Sampler(steps=4))).eval()
    x, draws = images(2, 64, 64), Draws((5, 6))
    with torch.no_grad():
        features = model.method.features(Inputs(x))
        steps = list(model.method.trajectory(features, draws, model.method.sampler))
        uncertainty = model.method.sample(features, draws).uncertainty
        output = model(Inputs(x), draws=draws)
    classes = torch.stack([step.argmax(dim=1) for step in steps])
    changes = (classes[1:] != classes[:-1]).float().mean(dim=0)
    assert changes.any()
    torch.testing.assert_close(uncertainty[:, 0], changes)
    assert output.uncertainty.shape == (2, 1, 64, 64)
    prediction = model.task.decode(output)[1]
    assert torch.equal(prediction.uncertainty, output.uncertainty[1, 0])
    assert prediction.arrays()["uncertainty"].values.shape == (64, 64)


def test_the_uncertainty_entropy_is_that_of_the_mean_over_steps_and_seeds() -> None:
    rule = Sampler(steps=3, seeds=2, uncertainty="entropy")
    model = randomise_weights(build_ddp_segmentation(sampler=rule)).eval()
    x, draws = images(1, 64, 64), Draws((5,))
    with torch.no_grad():
        features = model.method.features(Inputs(x))
        steps = torch.stack(list(model.method.trajectory(features, draws, rule)))
        sampled = model.method.sample(features, draws)
    probability = steps.softmax(dim=2).mean(dim=(0, 1))
    entropy = -(probability * probability.log()).sum(dim=0) / math.log(len(NAMES))
    torch.testing.assert_close(sampled.uncertainty[0, 0], entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sampled.maps, steps[-1].mean(dim=0, keepdim=True))


def test_the_uncertainty_of_depth_is_the_standard_deviation_over_steps_and_seeds() -> None:
    rule = Sampler(steps=3, seeds=2)
    model = randomise_weights(build_ddp_depth(sampler=rule)).eval()
    x, draws = images(1, 64, 64), Draws((5,))
    with torch.no_grad():
        features = model.method.features(Inputs(x))
        steps = torch.stack(list(model.method.trajectory(features, draws, rule)))
        sampled = model.method.sample(features, draws)
        one = model(replace(Inputs(x), steps=1), draws=draws)
        prediction = model.task.decode(model(Inputs(x), draws=draws))[0]
    variance = sampled.square - sampled.mean.square()
    torch.testing.assert_close(
        variance[0], steps.flatten(0, 1).var(dim=0, correction=0), rtol=1e-3, atol=1e-4
    )
    assert float(prediction.uncertainty_m.max()) > 0
    assert isinstance(one, Moments)  # moments, because there are two seeds


def test_one_step_of_one_seed_has_no_uncertainty() -> None:
    x, draws = images(1, 64, 64), Draws((0,))
    rule = Sampler(steps=1)
    with torch.no_grad():
        classes = build_ddp_segmentation(sampler=rule).eval()(Inputs(x), draws=draws)
        depth = build_ddp_depth(sampler=rule).eval()(Inputs(x), draws=draws)
    assert classes.uncertainty is None
    assert isinstance(depth, Values)


def test_with_accumulate_released_mean_probabilities_are_used_as_logits() -> None:
    model = randomise_weights(build_ddp_segmentation(sampler=Sampler(accumulate="mean"))).eval()
    x, draws = images(1, 64, 64), Draws((0,))
    with torch.no_grad():
        mean = model(Inputs(x), draws=draws)
        model.method.sampler = Sampler(accumulate="released")
        released = model(Inputs(x), draws=draws)
    torch.testing.assert_close(released.maps, mean.maps)
    torch.testing.assert_close(released.probabilities, mean.maps.softmax(dim=1))


def test_the_number_of_steps_in_the_inputs_overrides_that_of_the_sampler() -> None:
    model = build_ddp_segmentation(sampler=Sampler(steps=2)).eval()
    counts = count_passes(model)
    with torch.no_grad():
        model(Inputs(images(1, 64, 64), steps=5), draws=Draws((0,)))
    assert counts == {"backbone": 1, "decoder": 5}


def test_an_explanation_has_the_output_of_every_step() -> None:
    for model in (build_ddp_segmentation(), build_ddp_depth(sampler=Sampler(seeds=2))):
        result = randomise_weights(model).eval().method.explain(Inputs(images(1, 64, 64)))
        assert len(result.steps) == 3
        assert [one.hw for one in result.steps] == [(16, 16)] * 3  # the size of the features
        assert [one.shape for one in result.maps.values()] == [(64, 64)]


def test_resizing_a_slope_adds_no_uncertainty() -> None:
    """Different depths of neighbouring cells must not count as uncertainty."""
    slope = torch.linspace(1, 9, 8).expand(1, 1, 8, 8)
    result = StepAccumulator(Sampler(steps=2), 1, "values", 5.0)
    result.add(slope)
    result.add(slope)
    output = result.result().to_output(OutputSpec("values", 1, (0.0, 10.0)), (32, 32))
    assert float(output.std.max()) < 1e-3
    torch.testing.assert_close(output.value, resize_maps(slope, (32, 32)))


def test_without_diffusion_a_number_of_steps_is_refused() -> None:
    decoder = MapDecoder(width=16, layers=1, hidden=8, time_width=None)
    model = DenseModel(
        task=Segmentation(NAMES), method=partial(DDP, **ddp_parts(encoding=None, decoder=decoder))
    )
    with pytest.raises(InputError, match="DDP has no steps to choose: leave steps out"):
        Predictor(model, Plan(steps=3))
    assert Predictor(model).one(images(1, 64, 64)[0]).hw == (64, 64)
