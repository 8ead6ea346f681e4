"""Trainings that begin with a saved model."""

import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.support_inference import Brightness
from tests.support_models import tiny

from diffsight.errors import InputError
from diffsight.hub import save
from diffsight.model import DenseModel
from diffsight.tasks import Depth
from diffsight.training.begin import begin_with


def test_matching_weights_are_loaded_and_the_others_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tiny(0, head_width=8)
    path = save(source, tmp_path / "first.safetensors")
    other = tiny(1, head_width=4)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with caplog.at_level(logging.INFO):
        begin_with(other, str(path))
    theirs, ours = source.state_dict(), other.state_dict()
    taken = [k for k, v in ours.items() if k.startswith("method.") and torch.equal(v, theirs[k])]
    changed = [k for k, v in ours.items() if not torch.equal(v, before[k])]
    assert taken
    assert all(name.startswith("method.") for name in changed)
    kept = [k for k in ours if k not in theirs or theirs[k].shape != ours[k].shape]
    assert kept
    assert all(torch.equal(ours[k], before[k]) for k in kept)
    assert "tensors; new: " in caplog.text


def test_a_model_without_matching_weights_is_refused(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "first.safetensors")
    with pytest.raises(InputError, match="none of its weights fits the model"):
        begin_with(DenseModel(task=Depth(), method=partial(Brightness)), str(path))
