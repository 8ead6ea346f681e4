"""Time budget and progress of a selection."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIN_STEPS = 20
MIN_TIMED_STEPS = 50  # a training with fewer steps starts without an estimate of its time


@dataclass(frozen=True)
class Progress:
    """Progress of a selection.

    Attributes:
        run: name of the current training, such as ``feature_head, fold 1 of 3``.
        step: finished steps of that training.
        steps: all steps of that training.
        losses: losses of the last step, by name.
        fraction: finished fraction of all trainings, in [0, 1].
    """

    run: str
    step: int
    steps: int
    losses: Mapping[str, float]
    fraction: float


def plan_steps(
    seconds: float,
    seconds_per_step: Mapping[str, float],
    max_steps: Mapping[str, int],
    folds: int,
    final: int,
) -> dict[str, int]:
    """Return the steps of a training of every method.

    All methods get equal time. Time that a method cannot use goes to the others.

    Args:
        seconds: time of all trainings together.
        seconds_per_step: measured time of a step, by method.
        max_steps: most steps of a training, by method.
        folds: trainings of every method.
        final: further trainings of the best method.
    """
    plan, left = {}, seconds
    cheapest_first = sorted(
        seconds_per_step, key=lambda name: max_steps[name] * seconds_per_step[name]
    )
    for done, name in enumerate(cheapest_first):
        part = left / ((len(cheapest_first) - done) * folds + final)
        steps = math.floor(part / seconds_per_step[name])
        plan[name] = min(max_steps[name], max(MIN_STEPS, steps))
        left -= folds * plan[name] * seconds_per_step[name]
    return {name: plan[name] for name in seconds_per_step}
