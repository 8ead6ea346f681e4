"""Random states survive a trip through a file that holds plain data only."""

import random

import numpy as np
import torch

from diffsight.training.rng import restore_rng, rng_state


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist(), np.random.standard_normal()  # noqa: NPY002


def test_round_trip_through_a_file(tmp_path):
    draw()
    torch.save(rng_state(), tmp_path / "state")
    expected = draw()
    restore_rng(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected
