"""What ``fit`` refuses before or during a training, and what it leaves behind."""

from pathlib import Path

import pytest
import yaml
from tests.training.conftest import Stripes, short, weights

from diffsight.errors import InputError
from diffsight.inference import Plan
from diffsight.training.checkpoints import load
from diffsight.training.optim import AdamW


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "give either steps or epochs"),
        ({"epochs": 1.0}, "give either steps or epochs"),
        ({"steps": 0}, "0 steps trains nothing"),
        ({"batch_size": 13}, "12 samples for training, less than one batch of 13"),
        ({"protocol": "room-v1"}, "unknown protocol 'room-v1': did you mean 'rooms-v1'"),
        ({"train": Stripes(broken=5)}, "stripe_5.png: truncated"),
        ({"resume": True}, "holds no run to continue: start without --resume"),
        ({"cache": Path("c")}, "cache: nothing is preloaded: add --preload 2, or leave --cache"),
        ({"val": Stripes(length=0)}, "has 0 samples, but needs one per device"),
        ({"monitor": "rsme"}, "validation has no score 'rsme': choose from loss"),
        ({"monitor": "rsme", "protocol": "rooms-v1"}, "no score 'rsme': did you mean 'rmse'"),
        (
            {"protocol": "rooms-v1", "evaluation_plan": Plan(flip=True)},
            "validation has no score 'loss': choose from abs_rel",
        ),
        ({"clip_norm": -1.0}, "clip_norm -1: give a positive number, or null"),
        ({"clip_norm": {"method.nothing": 1.0}}, "no trainable parameter is called method.nothing"),
        (
            {"clip_norm": 1.0, "strategy": "fsdp"},
            "clip_norm needs all gradients, of which a device",
        ),
        ({"strategy": "nonsense"}, "Lightning cannot train with .* strategy=nonsense: "),
        ({"dtype": "float16"}, "dtype float16 needs a GPU: choose dtype=bfloat16"),
        ({"validate_every": 0}, "validate_every 0: give a whole number from 1 on"),
        ({"checkpoint_every": 0}, "checkpoint_every 0: give a whole number from 1 on"),
        ({"accumulate": 0}, "accumulate 0: give a whole number from 1 on"),
        ({"workers": -1}, "workers -1: give a whole number from 0 on"),
        ({"devices": -1}, "devices -1: give a whole number from 0 on"),
        ({"seed": -1}, "seed -1: give a whole number from 0 on"),
        ({"seed": 2**32}, "seed 4294967296: give a smaller number"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_the_training(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        short(tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_diverged_training_keeps_its_last_usable_checkpoint_and_saves_no_model(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="the training diverged, its weights") as error:
        short(out, optim=AdamW(lr=1e30), steps=9, checkpoint_every=1)
    assert "\n" not in str(error.value)
    assert all(bool(value.isfinite().all()) for value in weights(out).values())
    assert not (out / "model").exists()


def test_options_of_a_resumed_run_are_kept_for_the_next_one(tmp_path):
    out = tmp_path / "run"
    short(out, steps=2)
    short(out, steps=4, resume=True)
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["steps"] == 4
    assert load(out / "last.ckpt")["global_step"] == 4
    with pytest.raises(InputError, match="4 steps are finished, more than the 3 of this run"):
        short(out, steps=3, resume=True)
    short(out, steps=6, resume=True, plan=True)
    assert yaml.safe_load((out / "recipe.yaml").read_text())["steps"] == 4
