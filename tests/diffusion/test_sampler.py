"""The sampler of DDP, its noise schedules and the accumulation of steps."""

import pytest
import torch
from tests.support import noise

from diffsight.diffusion import CosineNoise, LinearNoise, Sampler
from diffsight.diffusion.noise import add_noise, ddim_step, ddpm_step, time_pairs
from diffsight.diffusion.sampler import StepAccumulator
from diffsight.errors import InputError


def test_time_pairs_are_the_asymmetric_intervals_of_the_paper() -> None:
    assert time_pairs(1) == [(1.0, 0.0)]
    assert [(round(a, 4), round(b, 4)) for a, b in time_pairs(3)] == [
        (1.0, 0.3333),
        (0.6667, 0.0),
        (0.3333, 0.0),
    ]
    assert time_pairs(10)[0] == pytest.approx((1.0, 0.8))
    assert time_pairs(2, time_difference=0.0, start=0.5) == [(1.0, 0.75), (0.75, 0.5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"time_difference": -1.0}, "time_difference must be 0 or more"),
        ({"time_difference": float("nan")}, "time_difference must be 0 or more"),
        ({"start": 1.0}, r"start must be in \[0, 1\)"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"settled": 1.0}, r"settled must be in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampler(**options)  # type: ignore[arg-type]


def test_sampling_with_a_perfect_decoder_ends_near_the_label() -> None:
    """Without a time difference, DDIM ends at the label plus a little of the initial noise."""
    sampler, schedule = Sampler(steps=5, time_difference=0.0), CosineNoise()
    label, state = 0.01 * noise(2, 3, 4, 4, seed=1), noise(2, 3, 4, 4, seed=2)
    steps = list(
        sampler.trajectory(schedule, state, lambda s, t: s, lambda m: label, lambda k: state)
    )
    assert len(steps) == 5
    last = ddim_step(schedule, steps[-1], label, torch.full((2,), 0.2), torch.zeros(2))
    assert float((last - label).std()) == pytest.approx(0.00316, rel=0.2)


@pytest.mark.parametrize("schedule", [CosineNoise(), LinearNoise()])
def test_a_ddim_step_with_the_true_label_gives_the_noisy_label_of_the_next_time(
    schedule: CosineNoise | LinearNoise,
) -> None:
    label, normal = noise(3, 2, 4, 4, seed=1), noise(3, 2, 4, 4, seed=2)
    now, following = torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0.6, 0.4, 0.1])
    state = add_noise(schedule, label, normal, now)
    result = ddim_step(schedule, state, label, now, following)
    torch.testing.assert_close(
        result, add_noise(schedule, label, normal, following), rtol=1e-3, atol=1e-3
    )


def test_a_ddpm_step_has_the_mean_and_standard_deviation_of_the_next_time() -> None:
    schedule, count = CosineNoise(), 4000
    label = torch.full((1, 1, 1, count), 0.5)
    now, following = torch.tensor([0.7]), torch.tensor([0.4])
    state = add_noise(schedule, label, noise(1, 1, 1, count, seed=1), now)
    result = ddpm_step(schedule, state, label, now, following, noise(1, 1, 1, count, seed=2))
    alpha, sigma = schedule.levels(following)
    assert float(result.mean()) == pytest.approx(float(alpha) * 0.5, abs=0.03)
    assert float(result.std()) == pytest.approx(float(sigma), rel=0.05)
    last = ddpm_step(schedule, state, label, now, torch.zeros(1), noise(1, 1, 1, count, seed=2))
    assert float(last.std()) < 0.01


def test_an_image_stops_when_few_of_its_pixels_change() -> None:
    """Two images with four pixels and two classes; the first image stops after two steps."""
    classes = torch.tensor([[[0, 0, 0, 0], [1, 1, 1, 1]]] * 2 + [[[1, 1, 1, 1], [0, 1, 1, 1]]] * 2)
    classes[1, 1, 0] = 0
    steps = StepAccumulator(Sampler(steps=4, settled=0.1, accumulate="mean"), 2, "classes")
    is_active = []
    for step in classes:
        logits = 50.0 * torch.nn.functional.one_hot(step, 2).movedim(-1, 1)[:, :, None]
        is_active.append(steps.add(logits))
    result = steps.result()
    # the second image changes a pixel in the second step and none in the third
    assert is_active == [True, True, False, False]
    assert result.maps.argmax(dim=1)[:, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    assert result.uncertainty[0].abs().max() == 0
    assert result.uncertainty[1, 0, 0].tolist() == [0.5, 0, 0, 0]


def test_mean_and_uncertainty_are_taken_over_steps_and_seeds() -> None:
    values = torch.tensor([[1.0], [4.0], [2.0], [7.0]])[:, :, None, None]  # two seeds per step
    steps = StepAccumulator(Sampler(steps=2, seeds=2), 1, "values", 5.0)
    for step in values.split(2):
        steps.add(step)
    result = steps.result()
    assert float(result.maps) == 4.5
    assert float(result.mean) == -1.5
    assert float(result.square) == 7.5


def test_a_single_step_does_not_depend_on_the_time_difference() -> None:
    state = noise(1, 2, 4, 4, seed=1)
    results = []
    for difference in (0.0, 1.0, 3.0):
        sampler = Sampler(steps=1, time_difference=difference)
        (maps,) = sampler.trajectory(
            CosineNoise(), state, lambda s, t: s * t[0], lambda m: m, lambda k: state
        )
        results.append(maps)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
