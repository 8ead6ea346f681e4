"""Ctrl-C: it waits for the end of a step, and a resumed training ends with the same weights."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from tests.support_adapt import assert_same_weights, pictures, run

from diffsight.backbones import BackboneSource
from diffsight.training.interrupts import TornStepError, between_steps
from diffsight.training.state import AdaptState
from diffsight.training.step import TrainingStep


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def pressed(*, times: int = 1, checks: bool = True) -> None:
    with between_steps() as check:
        for _ in range(times):
            press()
        if checks:
            check()


def test_the_first_ctrl_c_waits_for_the_end_of_the_step() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        pressed()
    assert caught.type is KeyboardInterrupt
    assert caught.traceback[-1].name == "check"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(TornStepError):
        pressed(times=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_after_the_last_step_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt):
        pressed(checks=False)


def test_another_signal_handler_is_kept() -> None:
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
def test_resumed_after_ctrl_c_within_a_step_the_model_is_the_same(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, saved: bool
) -> None:
    """Weights of a finished step with the number of the step before would be trained twice."""
    make = TrainingStep.optimiser
    steps = []

    def watched(step: TrainingStep, **options: bool) -> torch.optim.Optimizer:
        optimiser = make(step, **options)

        def after(*_: object) -> None:
            steps.append(1)
            if len(steps) in (3, 5):
                for _ in range(times):
                    press()

        optimiser.register_step_post_hook(after)
        return optimiser

    monkeypatch.setattr(TrainingStep, "optimiser", watched)
    check_resumes(pipeline_folder, tmp_path, monkeypatch, saved=saved, interruptions=2)


@pytest.mark.parametrize("saved", [False, True])
def test_resumed_after_ctrl_c_while_held_out_images_are_scored_the_model_is_the_same(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffsight.adaptation.selection.measure_variants", pressed)
    check_resumes(pipeline_folder, tmp_path, monkeypatch, saved=saved, interruptions=1)


def check_resumes(
    pipeline_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    saved: bool,
    interruptions: int,
) -> None:
    """Compare an adaptation that was interrupted and resumed with one that was not.

    Args:
        pipeline_folder: the backbone.
        tmp_path: scratch folder.
        monkeypatch: with what interrupts; undone before the last resumption.
        saved: whether the state file was also written after step 2.
        interruptions: how often it is interrupted.
    """
    backbone = BackboneSource(pipeline_folder)
    folder = pictures(tmp_path, sizes=((64, 64),), count=3)
    options = {"method": "feature_head", "steps": 4, "state": tmp_path / "state", "mirror": False}

    def note(state: AdaptState, name: str, step: int, *rest: object) -> None:
        if saved and step == 2:
            state.stop(name, step, *rest)

    monkeypatch.setattr(AdaptState, "note", note)
    for number in range(interruptions):
        model = run(folder, backbone, **options, resume=number > 0)
        assert model.info["interrupted"]
    monkeypatch.undo()
    again = run(folder, backbone, **options, resume=True)
    whole = run(folder, backbone, **options | {"state": None})
    assert again.info == whole.info
    assert_same_weights(again, whole)
