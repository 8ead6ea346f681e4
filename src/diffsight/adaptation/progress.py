"""The time of a selection and its progress."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIN_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """The progress of a selection.

    Attributes:
        run: what is trained, such as ``feature_head, fold 1 of 3``.
        step: of that run.
        steps: of that run.
        losses: of the step.
        fraction: of all trainings that is done.
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
    """Return the steps of every training.

    Every method gets as much time; what a method cannot use goes to the others.

    Args:
        seconds: of all trainings.
        seconds_per_step: by method.
        max_steps: by method.
        folds: trainings of every method.
        final: further trainings of the best one.
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
