"""Seed, save and restore the global random generators of a process."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch, here and in worker processes."""
    seed_everything(seed, verbose=False)


def rng_state() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, torch and every CUDA device.

    They are plain data and tensors, which ``torch.load`` reads with ``weights_only``.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - to be saved
    assert isinstance(keys, np.ndarray)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Restore a result of ``rng_state``; for CUDA only if the number of devices is the same."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([row.cpu() for row in state["cuda"]])
