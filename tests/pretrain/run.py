"""A tiny pretraining to be killed: ``python -m tests.pretrain.run OUT CACHE KILL_AT``.

Loss number KILL_AT of the denoiser ends the process (0: never).
"""

import os
import signal
import sys
from pathlib import Path

from tests.pretrain.conftest import SIZE, few_steps, small_chunks, stages

from diffsight.pretrain import card, denoiser, pretrain
from diffsight.pretrain.denoising import Denoising


def train(out: Path, cache: Path, *, resume: bool = False) -> Path:
    """Three stages of a few steps; a checkpoint every 2 steps, a preview every 3."""
    return pretrain(
        stages=stages(),
        out=out,
        cache=cache,
        images=16,
        held_out=8,
        size=SIZE,
        devices=1,
        accelerator="cpu",
        checkpoint_every=2,
        validate_every=3,
        resume=resume,
    )


if __name__ == "__main__":
    small_chunks()
    losses, kill_at, calls = Denoising.losses, int(sys.argv[3]), 0

    def mortal(self, batch):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(self, batch)

    Denoising.losses = mortal
    denoiser.generate = card.generate = few_steps
    train(Path(sys.argv[1]), Path(sys.argv[2]))
