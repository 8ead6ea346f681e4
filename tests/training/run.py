"""A training that kills itself: ``python -m tests.training.run OUT KILL_AT [--resume] [--two]``.

At forward pass KILL_AT (0: never) it sends itself the signal in the environment variable KILL.
"""

import functools
import logging
import os
import signal
import sys
from pathlib import Path

from tests.training.conftest import Noise, Stripes, Tiny

from diffsight.tasks import Depth
from diffsight.training.fit import fit
from diffsight.training.optim import AdamW
from diffsight.training.schedules import Poly


class Mortal(Tiny):
    """A method that sends a signal to its own process at training pass ``kill_at``."""

    passes = 0
    kill_at = 0

    def forward(self, inputs, encoded=None, target=None, *, draws=None):
        if self.training:
            Mortal.passes += 1
            if Mortal.passes == self.kill_at:
                os.kill(os.getpid(), getattr(signal, os.environ["KILL"]))
        return super().forward(inputs, encoded, target, draws=draws)


def train(out: Path, *, resume: bool = False, steps: int = 30, workers: int = 2, devices: int = 1):
    """Train 30 steps of 2 batches each, with a checkpoint every 4 and validation every 10 steps."""
    return fit(
        task=Depth(),
        method=functools.partial(Mortal),
        train=Stripes(length=18),
        val=Stripes(length=3),
        optim=AdamW(lr=1e-2, weight_decay=0.1),
        schedule=Poly(warmup_steps=3),
        out=out,
        augment=[Noise()],
        protocol="rooms-v1",
        steps=steps,
        batch_size=4,
        accumulate=2,
        clip_norm=1.0,
        devices=devices,
        device="cpu",
        workers=workers,
        preload=devices - 1,
        checkpoint_every=4,
        validate_every=10,
        monitor="rmse",
        resume=resume,
    )


if __name__ == "__main__":
    # the class must have the same name as in the process that resumes
    from tests.training.run import Mortal, train

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    Mortal.kill_at = int(sys.argv[2])
    devices = 2 if "--two" in sys.argv else 1
    train(Path(sys.argv[1]), resume="--resume" in sys.argv, devices=devices)
