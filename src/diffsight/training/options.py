"""Options of a training, shared by Python, recipes and the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from diffsight.errors import InputError

Precision = Literal["32", "bf16", "fp16"]
Accelerator = Literal["auto", "cpu", "gpu"]
AUTOCAST: dict[Precision, torch.dtype | None] = {
    "32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How a training runs.

    Args:
        precision: ``32``, or mixed ``bf16`` / ``fp16``.
        seed: of initialisation, order, augmentation and draws.
        devices: processes; more than one trains with DDP (gloo on CPUs); 0 takes one per GPU, or
            one per core where there is none.
        accelerator: where to run.
        strategy: Lightning's, for FSDP and the like; ``auto`` is DDP on several devices.
        sync_batchnorm: batch statistics over all devices.
        clip_norm: largest norm of the gradient, or one for each beginning of parameters' names in
            the model; None does not clip.
        checkpoint_every: optimiser steps between checkpoints.
        validate_every: optimiser steps between validations.
        monitor: validation score whose best value makes ``best.ckpt``: ``loss``, ``rmse``, ``oiou``
            ...
        resume: continue from ``out/last.ckpt``; a run that was stopped before the first
            one starts again.
    """

    precision: Precision = "32"
    seed: int = 0
    devices: int = 1
    accelerator: Accelerator = "auto"
    strategy: str = "auto"
    sync_batchnorm: bool = False
    clip_norm: float | dict[str, float] | None = None
    checkpoint_every: int = 500
    validate_every: int = 500
    monitor: str = "loss"
    resume: bool = False

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of mixed precision; None is 32 bit."""
        return AUTOCAST[self.precision]


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainerOptions):
    """How ``fit`` runs.

    Args:
        steps: length of the training in optimiser steps; give this or ``epochs``.
        epochs: length of the training in passes over the training set.
        batch_size: images per batch over all devices together.
        accumulate: batches per optimiser step.
        workers: processes per device that read and augment.
        preload: processes that read all samples once before training, to keep them in memory (and
            on disk until it is finished); 0 reads a sample whenever it is needed.
        cache: folder where preloaded samples stay, for other runs on the same data (files that
            or code that changed since are not noticed); default: with the run, until it is
            finished.
        plan: print the forecast and stop.
        begin: saved model (folder, file or hub id) with whose weights the training begins, where
            they fit.
        resume: continue from ``out/last.ckpt``, on the command line with the recipe of ``out``; a
            run that was stopped before the first checkpoint starts again.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    workers: int = 2
    preload: int = 0
    cache: Path | None = None
    plan: bool = False
    begin: str | None = None

    def length(self, batches_per_epoch: int) -> int:
        """Return the optimiser steps of the whole training.

        Raises:
            InputError: if both or neither of ``steps`` and ``epochs`` are given, or it has none.
        """
        if (self.steps is None) == (self.epochs is None):
            raise InputError("give either steps or epochs, the length of the training")
        steps = self.steps
        if steps is None:
            steps = int((self.epochs or 0) * batches_per_epoch / self.accumulate)
        if steps < 1:
            raise InputError(
                f"a training of {steps} steps has no end product: give more steps or epochs"
            )
        return steps
