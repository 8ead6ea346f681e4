"""Lightning callbacks of a training: checkpoints, signals, pictures, the progress bar."""

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from rich import progress
from rich.console import Console
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.datasets.base import Batch
from diffsight.errors import INTERRUPTED, InputError
from diffsight.metrics import larger_is_better
from diffsight.tasks.base import AbstractTask
from diffsight.training.checkpoints import link_or_copy
from diffsight.training.forecast import TimeLeft

LAST, BEST = "last.ckpt", "best.ckpt"
PREEMPTED = 75  # exit status after SIGTERM; EX_TEMPFAIL: start again with --resume
log = logging.getLogger(__name__)


def at_step_end(trainer: Trainer) -> bool:
    """Return whether the batch that just ended completed an optimiser step.

    With accumulated gradients a step has several batches.
    """
    return (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0


def _scores(trainer: Trainer) -> dict[str, float]:
    """Return the latest validation scores by name, without the prefix ``val/``."""
    scored = (
        (k.removeprefix("val/"), v) for k, v in trainer.callback_metrics.items() if "val/" in k
    )
    return {name: float(value) for name, value in scored}


class Checkpoints(Callback):
    """Saves ``last.ckpt`` regularly and at the end, and ``best.ckpt`` at the best score.

    Args:
        folder: folder of both files.
        every: optimiser steps between checkpoints.
        monitor: validation score that selects ``best.ckpt``, without its prefix ``val/``.
    """

    def __init__(self, folder: Path, *, every: int, monitor: str) -> None:
        self.folder = folder
        self.every = every
        self.monitor = monitor
        self.best = float("inf")
        self.saved_step = -1
        self.past_s = 0.0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on the training, including the runs before an interruption."""
        return self.past_s + time.monotonic() - self.began

    def state_dict(self) -> dict[str, Any]:
        """Return the best score (times -1 if a larger score is better) and the seconds spent."""
        return {"best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``."""
        self.best, self.past_s = state_dict["best"], state_dict["seconds"]

    def save(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``, unless it already holds this step.

        Raises:
            InputError: if the training has diverged; the earlier checkpoint stays.
        """
        if trainer.global_step != self.saved_step:
            learner: Any = trainer.lightning_module
            learner.step.require_finite(
                "choose a smaller optim.lr or clip_norm, and check the range of the labels"
            )
            trainer.save_checkpoint(self.folder / LAST)
            self.saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Write ``last.ckpt`` every ``every`` optimiser steps, and after the last step."""
        is_due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if is_due and at_step_end(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``best.ckpt`` if the monitored score has improved.

        Raises:
            InputError: if there is no score named ``monitor``.
        """
        scores = _scores(trainer)
        if self.monitor not in scores:
            names = ", ".join(scores)
            raise InputError(f"monitor: no score is called {self.monitor!r}: choose from {names}")
        score = scores[self.monitor]
        cost = -score if larger_is_better(self.monitor) else score
        if not cost < self.best:
            return
        self.best = cost
        self.saved_step = -1  # the checkpoint must hold the new best score
        self.save(trainer)
        if trainer.is_global_zero:
            link_or_copy(self.folder / LAST, self.folder / BEST)


class MissedValidation(Callback):
    """Validates before the first step of a resumed run if a validation is due at its checkpoint.

    The interrupted run may have written the checkpoint before or after this validation.

    Args:
        every: optimiser steps between validations.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate as Lightning does between two steps."""
        if trainer.global_step and trainer.global_step % self.every == 0:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


class Interrupts(Callback):
    """Ends the training on SIGTERM or Ctrl-C, after the current step and with a checkpoint.

    A second signal ends it at once, without a checkpoint.

    Args:
        checkpoints: callback that writes the checkpoint.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.status = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install handlers for both signals; Lightning restores the old ones after the training."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)
            signal.signal(signal.SIGINT, self._note)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """After a signal, save a checkpoint and exit on all devices together.

        Raises:
            SystemExit: 75 after SIGTERM, 130 after Ctrl-C.
        """
        if not at_step_end(trainer):
            return
        if trainer.strategy.reduce_boolean_decision(self.status != 0, all=False):
            self.checkpoints.save(trainer)
            path = self.checkpoints.folder / LAST
            log.info(
                "stopped at step %d, saved %s: continue with --resume", trainer.global_step, path
            )
            raise SystemExit(self.status or PREEMPTED)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.status:
            raise SystemExit(self.status)
        self.status = PREEMPTED if number == signal.SIGTERM else INTERRUPTED


class Pictures(Callback):
    """Draws image, label, prediction and error of the first validation images.

    The pictures are PNG files and TensorBoard images.

    Args:
        folder: folder of the PNG files.
        task: task of the model, which draws the pictures.
        count: number of images that are drawn per validation.
    """

    def __init__(self, folder: Path, task: AbstractTask, *, count: int = 4) -> None:
        self.folder = folder
        self.task = task
        self.count = count
        self.rows: list[torch.Tensor] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw until there are ``count`` images, on the first device only."""
        missing = self.count - len(self.rows)
        if not trainer.is_global_zero or missing <= 0:
            return
        # predictions of an evaluation plan are on the CPU
        batch = batch.to(outputs["predictions"][0].to_label().device)
        truths = self.task.truth(batch.target)
        triples = zip(batch.inputs.image, truths, outputs["predictions"], strict=True)
        self.rows += [self.task.panel(*triple) for triple in list(triples)[:missing]]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the pictures of this validation below each other as one image."""
        if not self.rows:
            return
        widest = max(row.shape[-1] for row in self.rows)
        rows = [torch.nn.functional.pad(row, (0, widest - row.shape[-1])) for row in self.rows]
        sheet, self.rows = torch.cat(rows, dim=1), []
        write_sheet(trainer, self.folder, sheet)


def write_sheet(trainer: Trainer, folder: Path, sheet: UInt8[Tensor, "3 h w"]) -> None:
    """Write a picture to ``folder`` as a PNG named after the step, and to TensorBoard's log."""
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"step_{trainer.global_step:06d}.png") as partial:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(partial, format="PNG")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("val/pictures", sheet, trainer.global_step)


class ProgressBar(Callback):
    """Shows a progress bar on a terminal, and logs one line per validation.

    Both include the estimated time until the end of the training.

    Args:
        validate_every: optimiser steps between validations, whose time is estimated too.
    """

    def __init__(self, validate_every: int) -> None:
        self.validate_every = validate_every
        self.time_left = TimeLeft(0, 0, validate_every)
        console = Console(stderr=True)
        self.is_shown = console.is_terminal
        self.bar = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("loss {task.fields[loss]:.4f}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}"),
            console=console,
            disable=not self.is_shown,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar on the first device."""
        if not trainer.is_global_zero:
            return
        done = trainer.global_step
        self.time_left = TimeLeft(done, trainer.max_steps, self.validate_every)
        self.task = self.bar.add_task(
            "", total=trainer.max_steps, completed=done, loss=float("nan"), left=""
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Advance the bar, only if it is shown: reading the loss makes the CPU wait for the GPU."""
        if self.is_shown and trainer.is_global_zero:
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            left = self.time_left.describe(trainer.global_step)
            self.bar.update(self.task, completed=trainer.global_step, loss=loss, left=left)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the validation."""
        self.time_left.begin_scoring()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores and the time left in one line."""
        self.time_left.end_scoring()
        if trainer.is_global_zero:
            text = ", ".join(f"{name} {value:.4g}" for name, value in _scores(trainer).items())
            left = self.time_left.describe(trainer.global_step)
            log.info("step %d: %s%s", trainer.global_step, text, left and f" ({left})")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self.bar.stop()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        self.bar.stop()
