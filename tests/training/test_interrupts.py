"""Ctrl-C: it waits for the end of a step, and what was saved goes on to the same end."""

import os
import signal
import threading

import pytest
import torch
from tests.adaptation.test_adapt import pictures, run

from diffsight.adaptation.selection import Adaptation
from diffsight.hub.task_file import Base, read_task
from diffsight.training import loop
from diffsight.training.interrupts import TornStepError, between_steps
from diffsight.training.state import AdaptState


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def pressed(*, times: int = 1, asked: bool = True) -> list[str]:
    done = []
    with between_steps() as check:
        for _ in range(times):
            press()
        done.append("step")
        if asked:
            check()
        done.append("another")
    return done


def test_the_first_waits_for_the_end_of_the_step() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        pressed()
    assert caught.type is KeyboardInterrupt
    assert caught.traceback[-1].name == "check"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_does_not() -> None:
    with pytest.raises(TornStepError):
        pressed(times=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_not_lost_behind_the_last_step() -> None:
    with pytest.raises(KeyboardInterrupt):
        pressed(asked=False)


def test_another_handler_stays() -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with between_steps() as check:
            press()
            check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [1]
    thread = threading.Thread(target=lambda: heard.append(between_steps().__enter__()))
    thread.start()
    thread.join()
    assert len(heard) == 2


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_pressed_within_a_step_the_task_is_the_same_after_resuming(
    pipeline_folder, tmp_path, monkeypatch, times: int, saved: bool
) -> None:
    """Weights that have stepped and a number that has not would step twice."""
    made = loop.optimiser_for
    steps = []

    def watched(method, recipe):
        optimiser = made(method, recipe)

        def after(*_):
            steps.append(1)
            if len(steps) in (3, 5):
                for _ in range(times):
                    press()

        optimiser.register_step_post_hook(after)
        return optimiser

    monkeypatch.setattr("diffsight.adaptation.selection.optimiser_for", watched)
    check_resumes(pipeline_folder, tmp_path, monkeypatch, saved=saved, interruptions=2)


@pytest.mark.parametrize("saved", [False, True])
def test_pressed_while_held_out_images_are_scored(
    pipeline_folder, tmp_path, monkeypatch, saved: bool
) -> None:
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Adaptation, "_measured", pressed)
    check_resumes(pipeline_folder, tmp_path, monkeypatch, saved=saved, interruptions=1)


def check_resumes(pipeline_folder, tmp_path, monkeypatch, *, saved: bool, interruptions: int):
    """An adaptation that is interrupted by what is patched goes on to the same end, whether the
    file was written by the way, after step 2, or not.
    """
    base = Base.load(pipeline_folder)
    folder = pictures(tmp_path, sizes=((64, 64),))
    options = {"method": "features", "steps": 4, "state": tmp_path / "state"}

    def note(state, name, step, *rest) -> None:
        if saved and step == 2:
            state.stop(name, step, *rest)

    monkeypatch.setattr(AdaptState, "note", note)
    for number in range(interruptions):
        task = run(folder, base, **options, resume=number > 0)
        assert task.about["report"]["interrupted"]
    monkeypatch.undo()
    again = run(folder, base, **options, resume=True)
    whole = run(folder, base, **options | {"state": None})
    assert again.about == whole.about
    (_, ours), (_, theirs) = (
        read_task(task.save(tmp_path / name)) for name, task in (("a", whole), ("b", again))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
