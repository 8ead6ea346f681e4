"""Ctrl-C: it waits for the end of a step, and a resumed training ends with the same weights."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from tests.support_adapt import assert_same_weights, run, write_pictures

from diffsight.backbones import BackboneSource
from diffsight.training.interrupts import TornStepError, between_steps
from diffsight.training.state import AdaptState
from diffsight.training.step import TrainingStep


def send_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run_step_with_ctrl_c(*, times: int = 1, checks: bool = True) -> None:
    with between_steps() as check:
        for _ in range(times):
            send_ctrl_c()
        if checks:
            check()


def test_the_first_ctrl_c_waits_for_the_end_of_the_step() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        run_step_with_ctrl_c()
    assert caught.type is KeyboardInterrupt
    assert caught.traceback[-1].name == "check"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(TornStepError):
        run_step_with_ctrl_c(times=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_after_the_last_step_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_step_with_ctrl_c(checks=False)


def test_another_signal_handler_is_kept() -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with between_steps() as check:
            send_ctrl_c()
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
def test_a_training_resumed_after_ctrl_c_within_a_step_gives_the_same_model(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, saved: bool
) -> None:
    """If weights were saved with the number of the previous step, a step would be run twice."""
    make = TrainingStep.optimiser
    steps = []

    def watched(step: TrainingStep, **options: bool) -> torch.optim.Optimizer:
        optimiser = make(step, **options)

        def after(*_: object) -> None:
            steps.append(1)
            if len(steps) in (3, 5):
                for _ in range(times):
                    send_ctrl_c()

        optimiser.register_step_post_hook(after)
        return optimiser

    monkeypatch.setattr(TrainingStep, "optimiser", watched)
    check_resumes(pipeline_folder, tmp_path, monkeypatch, saved=saved, interruptions=2)


@pytest.mark.parametrize("saved", [False, True])
def test_a_training_resumed_after_ctrl_c_during_scoring_gives_the_same_model(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffsight.adaptation.selection.measure_variants", interrupt)
    check_resumes(pipeline_folder, tmp_path, monkeypatch, saved=saved, interruptions=1)


def check_resumes(
    pipeline_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    saved: bool,
    interruptions: int,
) -> None:
    """Check that an interrupted and resumed adaptation equals an uninterrupted one.

    Args:
        pipeline_folder: folder of the backbone.
        tmp_path: scratch folder.
        monkeypatch: contains the patches that interrupt; they are undone before the last run.
        saved: whether the state file is also written after step 2.
        interruptions: number of interruptions.
    """
    backbone = BackboneSource(pipeline_folder)
    folder = write_pictures(tmp_path, sizes=((64, 64),), count=3)
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
