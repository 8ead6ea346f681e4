"""Options of a training, shared by Python, recipes and the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffsight.choices import Dtype
from diffsight.errors import InputError, check_whole

MAX_SEED = 2**32  # numpy's generator needs a smaller one


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Options of every training.

    Args:
        dtype: ``float32``, or ``bfloat16`` / ``float16`` for mixed precision.
        seed: seed of initialisation, order, augmentation and noise.
        devices: number of processes; more than one trains with DistributedDataParallel (gloo on
            CPUs); 0 takes one per GPU, or one per core without a GPU.
        nodes: number of machines, each with ``devices`` processes. The same command runs on each of
            them, started by ``torchrun`` or Slurm's ``srun``.
        device: kind of device; default: the GPU if there is one.
        strategy: Lightning's strategy, such as ``fsdp``; ``auto`` is DistributedDataParallel on
            several devices.
        sync_batchnorm: compute batch statistics over all devices.
        clip_norm: largest norm of the gradient, or one for each prefix of parameter names in the
            model; None does not clip.
        checkpoint_every: optimiser steps between checkpoints.
        validate_every: optimiser steps between validations.
        monitor: validation score whose best value makes ``best.ckpt``: ``loss``, ``rmse``, ``oiou``
            ...
        resume: continue from ``out/last.ckpt``; a run that was stopped before its first checkpoint
            starts again.

    Raises:
        InputError: for an impossible number.
    """

    dtype: Dtype = "float32"
    seed: int = 0
    devices: int = 1
    nodes: int = 1
    device: Literal["cpu", "cuda"] | None = None
    strategy: str = "auto"
    sync_batchnorm: bool = False
    clip_norm: float | dict[str, float] | None = None
    checkpoint_every: int = 500
    validate_every: int = 500
    monitor: str = "loss"
    resume: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_whole("devices", self.devices, 0)
        for name in ("nodes", "checkpoint_every", "validate_every"):
            check_whole(name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainerOptions):
    """Options of ``fit``.

    Args:
        steps: length of the training in optimiser steps; give this or ``epochs``.
        epochs: length of the training in passes over the training set.
        batch_size: images per batch over all devices together.
        accumulate: batches per optimiser step.
        workers: processes per device that read and augment samples.
        preload: processes that read all samples once before the training and keep them in memory
            (and on disk until it is finished); 0 reads a sample whenever it is needed.
        cache: folder that keeps preloaded samples for other runs on the same data; later changes
            of files or code are not noticed (default: the folder of the run, until it is
            finished).
        plan: print the forecast and stop.
        begin: saved model (folder, file or hub id) that provides the initial weights where names
            and shapes match.
        resume: continue from ``out/last.ckpt``, on the command line with the recipe of ``out``; a
            run that was stopped before the first checkpoint starts again.

    Raises:
        InputError: for an impossible number.
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

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        for name, least in (("batch_size", 1), ("accumulate", 1), ("workers", 0), ("preload", 0)):
            check_whole(name, getattr(self, name), least)

    def length(self, batches_per_epoch: int) -> int:
        """Return the optimiser steps of the whole training.

        Args:
            batches_per_epoch: complete batches in the training set.

        Raises:
            InputError: if both or neither of ``steps`` and ``epochs`` are given, or there would be
                no step.
        """
        if (self.steps is None) == (self.epochs is None):
            raise InputError("give either steps or epochs, the length of the training")
        steps = self.steps
        if steps is None:
            steps = int((self.epochs or 0) * batches_per_epoch / self.accumulate)
        if steps < 1:
            raise InputError(
                f"a training of {steps} steps trains nothing: give more steps or epochs"
            )
        return steps
