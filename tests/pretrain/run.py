"""A small pretraining that can be killed: ``python -m tests.pretrain.run OUT CACHE KILL_AT``.

The process kills itself before it computes loss number KILL_AT of the denoiser (0: never).
"""

import os
import signal
import sys
from pathlib import Path

from tests.pretrain.conftest import SIZE, generate_in_two_steps, make_stages, use_small_chunks

from diffsight.pretrain import card, denoiser, pretrain
from diffsight.pretrain.denoising import Denoising


def train(out: Path, cache: Path, *, resume: bool = False, checkpoint_every: int = 2) -> Path:
    """Run three stages of a few steps, with a preview every 3 steps."""
    return pretrain(
        stages=make_stages(),
        out=out,
        cache=cache,
        images=16,
        held_out=8,
        size=SIZE,
        devices=1,
        device="cpu",
        checkpoint_every=checkpoint_every,
        validate_every=3,
        resume=resume,
    )


if __name__ == "__main__":
    use_small_chunks()
    losses, kill_at, calls = Denoising.losses, int(sys.argv[3]), 0

    def losses_until_killed(self, batch):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(self, batch)

    Denoising.losses = losses_until_killed
    denoiser.generate = card.generate = generate_in_two_steps
    train(Path(sys.argv[1]), Path(sys.argv[2]))
