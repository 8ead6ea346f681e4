"""Train in a plain loop that can be interrupted and resumed."""

from collections.abc import Callable, Iterable
from typing import Any

from diffsight.model import DenseModel
from diffsight.training.interrupts import TornStepError, between_steps
from diffsight.training.loop import Runtime, train
from diffsight.training.state import AdaptState
from diffsight.training.step import TrainingStep


def train_resumable(
    step: TrainingStep,
    model: DenseModel,
    batches: Callable[..., Iterable[Any]],
    state: AdaptState,
    key: str,
    runtime: Runtime,
    advance: Callable[[int, dict[str, float]], None],
) -> None:
    """Train from the stored step on; Ctrl-C waits for the end of the step and saves the state.

    Args:
        step: training step.
        model: model to train.
        batches: returns the batches from the step ``start`` on.
        state: stored state, updated after every step.
        key: key of the training in the state.
        runtime: device and dtype.
        advance: called after every step with its number and the losses.

    Raises:
        KeyboardInterrupt: after the state is saved.
    """
    optimiser, done = step.optimiser(), 0
    if state.current.get("run") == key:
        done = state.restore(model, optimiser)
    try:
        with between_steps() as check:

            def note(number: int, losses: dict[str, float]) -> None:
                nonlocal done
                done = number
                state.note(key, number, model, optimiser)
                advance(number, losses)
                check()

            train(
                step,
                batches(start=done),
                start=done,
                optimiser=optimiser,
                runtime=runtime,
                advance=note,
            )
    except TornStepError:  # the last saved state is complete
        raise
    except KeyboardInterrupt:
        state.stop(key, done, model, optimiser)
        raise
