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
    """Train to the last step, from the stored step on if this training was interrupted.

    Args:
        step: training step.
        model: model to train.
        batches: function that returns the batches from the step ``start`` on.
        state: state in which the training is saved regularly, and after Ctrl-C.
        key: name of the training in the state.
        runtime: device and dtype.
        advance: called after every step with the number of finished steps and the losses by name.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the current step is finished and saved.
        TornStepError: immediately after a second Ctrl-C; nothing more is saved.
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
