"""``fit`` end to end on a tiny model: files, signals, resuming and errors."""

import functools
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from PIL import Image
from tests.training import run
from tests.training.conftest import Stripes, Tiny, metrics, short, weights

from diffsight import recipes
from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.inference import Plan
from diffsight.outputs import Values
from diffsight.training.checkpoints import KEY, load
from diffsight.training.optim import AdamW
from diffsight.training.schedules import RiseAndFall
from diffsight.types import Inputs

ROOT = Path(__file__).parents[2]
TINY = {"width": 4, "dropout": 0.2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the output folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run.train(out)
    return out


def assert_same_result(one: Path, other: Path) -> None:
    a, b = load(one / "last.ckpt"), load(other / "last.ckpt")
    assert a["global_step"] == b["global_step"] == 30
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    moments = [c["optimizer_states"][0]["state"] for c in (a, b)]
    for index, state in moments[0].items():
        assert all(torch.equal(value, moments[1][index][name]) for name, value in state.items())
    assert a[KEY]["loader"] == b[KEY]["loader"]
    assert torch.equal(a[KEY]["rng"][0]["torch"], b[KEY]["rng"][0]["torch"])
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def process(out: Path, kill_at: int, *flags: str, kill: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.training.run", str(out), str(kill_at), *flags],
        env={**os.environ, "KILL": kill, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_weights_after_sigkill_and_resume_are_bit_identical(whole, tmp_path):
    # 30 steps have two passes each, the forecast two more; the first checkpoint is after step 4
    kill_at = random.SystemRandom().randint(1, 58)
    killed = process(tmp_path / "run", kill_at, kill="SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = tmp_path / "run" / "last.ckpt"
    assert last.exists() == (kill_at > 10)
    if last.exists():
        assert 4 <= load(last)["global_step"] < 30
    run.train(tmp_path / "run", resume=True, workers=0)
    assert_same_result(whole, tmp_path / "run")


@pytest.mark.parametrize(("kill", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_signals_save_a_checkpoint_and_end_the_run(whole, tmp_path, monkeypatch, kill, status):
    monkeypatch.setenv("KILL", kill)
    monkeypatch.setattr(run.Mortal, "passes", 0)
    monkeypatch.setattr(run.Mortal, "kill_at", 2 + 23)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        run.train(tmp_path / "run", workers=0)
    assert stop.value.code == status
    # the signal comes in the first of the two passes of step 12, which is still completed
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == 12
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    run.train(tmp_path / "run", resume=True)
    assert_same_result(whole, tmp_path / "run")


def test_a_resumed_run_does_the_validation_before_which_the_interrupted_one_ended(
    whole, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    monkeypatch.setenv("KILL", "SIGTERM")
    monkeypatch.setattr(run.Mortal, "passes", 0)
    monkeypatch.setattr(run.Mortal, "kill_at", 2 + 40)  # in the second pass of step 20
    with pytest.raises(SystemExit):
        run.train(out, workers=0)
    assert not (out / "pictures" / "step_000020.png").exists()
    run.train(out, resume=True)
    assert (out / "pictures" / "step_000020.png").exists()
    scores, expected = (
        [row for row in metrics(each) if row["name"].startswith("val/")] for each in (out, whole)
    )
    assert scores == expected
    assert all(torch.equal(value, weights(out)[name]) for name, value in weights(whole).items())


def test_two_processes_train_one_model(tmp_path):
    result = process(tmp_path / "run", 0, "--two")
    assert result.returncode == 0, result.stderr
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == 30
    assert len(load(tmp_path / "run" / "last.ckpt")[KEY]["rng"]) == 2
    rows = metrics(tmp_path / "run")
    assert [float(r["value"]) for r in rows if r["name"] == "val/images"] == [3.0] * 3
    assert "WARN" not in result.stderr.upper()
    # the other process reads the file of the first
    assert result.stderr.count("reading 18 samples") == 1
    assert not list((tmp_path / "run").glob("*.samples"))


def test_a_run_writes_its_files(whole):
    assert sorted(p.name for p in whole.iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "metrics.csv",
        "model",
        "pictures",
        "recipe.yaml",
        "tensorboard",
    ]
    assert (whole / "model" / "baselines.safetensors").exists()
    with Image.open(whole / "pictures" / "step_000030.png") as picture:
        assert picture.size == (4 * 8, 3 * 8)
    rows = metrics(whole)
    assert {int(r["step"]) for r in rows if r["name"] == "val/rmse"} == {9, 19, 29}
    assert [float(r["value"]) for r in rows if r["name"] == "train/epoch"] == [4.5, 9.5, 14.5]


def test_checkpoint_holds_recipe_versions_position_and_random_states(whole):
    ours = load(whole / "last.ckpt")[KEY]
    recipe = yaml.safe_load((whole / "recipe.yaml").read_text())
    assert ours["recipe"] == recipe
    assert recipe["method"] == {"class_path": "tests.training.run.Mortal", "init_args": TINY}
    assert ours["schedule"] == {"step": 30, "steps": 30}
    # 18 samples make 4 batches of 4 per epoch; 60 batches were seen
    assert ours["loader"] == {
        "epoch": 15,
        "position": 0,
        "samples": 18,
        "batch_size": 4,
        "seed": 0,
    }
    assert ours["versions"]["torch"] == torch.__version__
    assert set(ours["rng"][0]) == {"python", "numpy", "torch", "cuda"}


@pytest.mark.parametrize(("monitor", "best_of"), [("loss", min), ("d3", max)])
def test_the_best_and_the_last_checkpoint_are_kept(tmp_path, monitor, best_of):
    settings = {"optim": AdamW(lr=3.0), "monitor": monitor, "protocol": "rooms-v1"}
    short(tmp_path / "run", steps=4, validate_every=1, **settings)
    rows = metrics(tmp_path / "run")
    scores = [float(r["value"]) for r in rows if r["name"] == f"val/{monitor}"]
    assert len(set(scores)) > 1
    best = load(tmp_path / "run" / "best.ckpt")["global_step"]
    assert scores[best - 1] == best_of(scores)
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == 4


def test_learning_rates_follow_the_schedule_times_the_scale_of_the_group(tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        seen.append([group["lr"] for group in self.param_groups])
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    optim = AdamW(lr=1e-3, lr_scale={"method.backbone.unet": 0.01})
    short(
        tmp_path / "run",
        steps=4,
        optim=optim,
        schedule=RiseAndFall(min_lr=0.0, peak=0.5, power=1.0),
    )
    rates = torch.tensor(seen)
    # RiseAndFall starts at 0, has its peak at step 2, and falls again
    expected = torch.tensor([0.0, 5e-4, 1e-3, 5e-4])
    for column, scale in enumerate([0.01, 0.01, 1.0, 1.0]):
        torch.testing.assert_close(rates[:, column], expected * scale)


def test_accumulated_batches_make_one_step(tmp_path):
    fitted = short(tmp_path / "run", steps=2, accumulate=3, batch_size=2)
    assert fitted is not None
    ours = load(tmp_path / "run" / "last.ckpt")
    assert ours["global_step"] == 2
    assert ours[KEY]["loader"] == {
        "epoch": 1,
        "position": 0,
        "samples": 12,
        "batch_size": 2,
        "seed": 0,
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_stay_in_float32_in_every_dtype(tmp_path, dtype):
    fitted = short(tmp_path / "run", dtype=dtype, clip_norm=0.1, protocol="rooms-v1")
    assert fitted is not None
    assert {"rmse", "d1"} <= set(fitted.scores)
    assert set(fitted.evaluation.scores) == {"model", "constant median", "mean map"}
    assert all(p.dtype == torch.float32 for p in fitted.model.parameters())


def test_epochs_count_steps_with_preloaded_samples(tmp_path):
    short(tmp_path / "run", steps=None, epochs=2.0, preload=1)
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == 6


def test_a_new_run_reads_its_samples_again(tmp_path):
    """A stopped run leaves its samples behind, but their files may have changed since."""
    out = tmp_path / "run"
    short(out, plan=True, preload=1)
    kept = sorted(out.glob("*.samples"))
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(b"of another time")
    assert short(out, preload=1) is not None
    assert not list(out.glob("*.samples"))


def test_runs_can_share_one_cache_of_samples(tmp_path, monkeypatch):
    alone = short(tmp_path / "alone", preload=1)
    short(tmp_path / "first", preload=1, cache=tmp_path / "cache")
    monkeypatch.setattr(Stripes, "__getitem__", None)  # the second run reads no sample
    second = short(tmp_path / "second", preload=1, cache=tmp_path / "cache")
    assert second.scores == alone.scores
    assert len(list((tmp_path / "cache").glob("*.samples"))) == 2
    assert not list(tmp_path.glob("[a-b,d-z]*/*.samples"))
    with pytest.raises(
        InputError, match=r"in which preloaded samples are deleted at the end: give another --"
    ):
        short(tmp_path / "third", preload=1, cache=tmp_path / "third")


def test_validation_does_not_change_the_training(tmp_path):
    short(tmp_path / "often", steps=6, validate_every=1)
    short(tmp_path / "never", steps=6)
    often, never = weights(tmp_path / "often"), weights(tmp_path / "never")
    assert all(torch.equal(value, never[name]) for name, value in often.items())


def test_the_option_plan_trains_nothing(tmp_path, capsys):
    assert short(tmp_path / "run", plan=True) is None
    assert [p.name for p in (tmp_path / "run").iterdir() if p.suffix == ".ckpt"] == []
    text = capsys.readouterr().err
    assert "125 of them trainable" in text
    assert "3 steps of" in text
    assert "everything, vectors" in text


def test_the_forecast_counts_validations_and_log_lines_have_the_time_left(tmp_path, capsys, caplog):
    with caplog.at_level("INFO"):
        short(tmp_path / "run", validate_every=1, protocol="rooms-v1", monitor="rmse")
    text = capsys.readouterr().err
    assert "3 steps of" in text
    assert "and 4 validations of" in text
    lines = [line for line in caplog.messages if line.startswith("step ")]
    assert len(lines) == 3
    assert all("about" in line and line.endswith("left)") for line in lines)
    assert "days" not in caplog.text


def test_a_training_of_days_names_the_small_recipes(tmp_path, caplog):
    short(tmp_path / "short", plan=True)
    assert "small recipes" not in caplog.text
    short(tmp_path / "long", plan=True, steps=10**10)
    assert "this takes days" in caplog.text
    for name in ("vpd/folder_depth_small", "vpd/folder_semantic_small"):
        assert name in caplog.text
        assert name in recipes.names()


def test_finished_run_can_be_exported_again(whole):
    before = weights(whole)
    run.train(whole, resume=True)
    assert all(torch.equal(value, before[name]) for name, value in weights(whole).items())


def test_a_run_is_not_overwritten_nor_resumed_with_another_recipe(whole):
    with pytest.raises(InputError, match="holds a run already: add --resume"):
        run.train(whole)
    with pytest.raises(InputError, match="trained with another 'method' than this recipe's"):
        short(whole, resume=True)


def test_the_progress_bar_is_shown_on_terminals_only(tmp_path, monkeypatch, capsys):
    short(tmp_path / "piped")
    assert "left" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")  # with this, rich treats the stream as a terminal
    short(tmp_path / "shown", preload=1)
    text = capsys.readouterr().err
    assert "reading stripes" in text
    assert "3/3" in text
    assert "left" in text


class Scenes(Stripes):
    """Images whose prompt is the name of their scene."""

    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), prompt="kitchen")


class Reading(Tiny):
    """A method that records the prompts of its validation passes."""

    accepts_prompt = True
    seen: ClassVar[list[Any]] = []

    def forward(self, inputs: Inputs, *rest: Any, **options: Any) -> Values:
        if not self.training:
            self.seen.append(inputs.prompts)
        return super().forward(inputs, *rest, **options)


class ReadingCaptions(Reading):
    """A method that needs a caption of every image."""

    requires_prompt = True


@pytest.mark.parametrize("preload", [0, 1])
def test_scene_types_are_refused_as_captions_before_the_training(tmp_path, monkeypatch, preload):
    monkeypatch.setattr(Scenes, "prompt_source", "oracle-scene")
    changes = {"val": Scenes(length=3), "protocol": "rooms-v1", "monitor": "rmse"}
    changes |= {"method": functools.partial(ReadingCaptions), "preload": preload}
    with pytest.raises(InputError, match="'oracle-scene', not 'caption': wrap it in Captioned"):
        short(tmp_path, **changes)
    assert not (tmp_path / "last.ckpt").exists()


def test_validation_and_final_evaluation_use_the_plan_and_prompts_of_the_recipe(tmp_path):
    changes = {"protocol": "rooms-v1", "monitor": "rmse", "validate_every": 1}
    changes |= {"val": Scenes(length=3), "method": functools.partial(Reading)}
    plain = short(tmp_path / "plain", **changes)
    assert not any(map(any, filter(None, Reading.seen)))
    Reading.seen.clear()
    plan = Plan(flip=True, tile=6, stride=2)
    planned = short(tmp_path / "planned", **changes, evaluation_plan=plan, oracle_scene=True)
    assert "kitchen" in {name for names in Reading.seen for name in names or ()}
    assert planned.evaluation.plan == replace(plan, batch_size=4).describe()
    assert planned.evaluation.protocol.prompt == "oracle-scene"
    assert planned.scores["rmse"] != pytest.approx(plain.scores["rmse"], rel=1e-4)
    for done in (plain, planned):
        logged = [row["value"] for row in metrics(done.folder) if row["name"] == "val/rmse"]
        assert len(logged) == 3
        assert float(logged[-1]) == pytest.approx(done.scores["rmse"], rel=1e-5)
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "planned").keys()
    for name, value in weights(tmp_path / "plain").items():
        assert torch.equal(value, weights(tmp_path / "planned")[name]), name
    recipe = yaml.safe_load((tmp_path / "planned" / "recipe.yaml").read_text())
    assert recipe["evaluation_plan"]["tile"] == 6
    with pytest.raises(InputError, match="need a protocol: give one"):
        short(tmp_path / "none", evaluation_plan=plan)
