"""The states of random number generators can be stored in a file of plain data."""

import random

import numpy as np
import torch

from diffsight.training.rng import restore_rng, rng_state


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist(), np.random.standard_normal()  # noqa: NPY002


def test_random_states_are_restored_from_a_file(tmp_path):
    draw()
    torch.save(rng_state(), tmp_path / "state")
    expected = draw()
    restore_rng(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected
