"""``fit``: a plain function whose signature is the schema of a recipe."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress

from diffsight import hub, protocols
from diffsight.config import Plain, to_config
from diffsight.datasets.base import AbstractDataset, AbstractTransform
from diffsight.datasets.files import replacing
from diffsight.inference.evaluate import Evaluation, evaluate, rivals
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.methods.base import MethodBuilder
from diffsight.model import DenseModel
from diffsight.tasks.base import AbstractTask
from diffsight.training.baselines import baselines
from diffsight.training.callbacks import LAST, Checkpoints, Interrupts, Pictures, ProgressBar
from diffsight.training.checkpoints import KEY, AtomicCheckpoints, load, versions
from diffsight.training.data import InMemory, TrainingStream
from diffsight.training.forecast import forecast
from diffsight.training.learner import Learner
from diffsight.training.logs import CsvLog
from diffsight.training.optim import AdamW, table
from diffsight.training.schedules import AbstractSchedule, Constant
from diffsight.types import InputError

Precision = Literal["32", "bf16", "fp16"]
AUTOCAST: Mapping[Precision, torch.dtype | None] = {
    "32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
LIGHTNING_PRECISION: Mapping[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
# a resumed run must agree with the interrupted one in these
FIXED = ("task", "method", "augment", "optim", "schedule", "accumulate", "precision")
log = logging.getLogger(__name__)

# what Lightning would do and this package does itself
OURS: Mapping[str, Any] = {
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}
# arguments that are not part of the recipe
OWN = ("out", "resume", "plan")


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        model: with the last weights.
        folder: the run's folder; ``model/`` in it is the saved model.
        scores: of the validation set at the end: the protocol's, without one ``loss``.
        validation: what was scored.
        evaluation: the scores with all they depend on, beside predictors that never see an image;
            None without a protocol.
    """

    model: DenseModel
    folder: Path
    scores: Mapping[str, float]
    validation: AbstractDataset
    evaluation: Evaluation | None


def fit(
    *,
    task: AbstractTask,
    method: MethodBuilder,
    train: AbstractDataset,
    val: AbstractDataset,
    optim: AdamW,
    out: Path,
    schedule: AbstractSchedule | None = None,
    augment: list[AbstractTransform] | None = None,
    protocol: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 8,
    accumulate: int = 1,
    clip_norm: float | None = None,
    precision: Precision = "32",
    seed: int = 0,
    devices: int = 1,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    strategy: str = "auto",
    sync_batchnorm: bool = False,
    workers: int = 2,
    preload: int = 0,
    checkpoint_every: int = 500,
    validate_every: int = 500,
    monitor: str = "loss",
    resume: bool = False,
    plan: bool = False,
) -> Fitted | None:
    """Train a model and save it to ``out/model``; the signature is the schema of a recipe.

    The folder also gets ``recipe.yaml`` (resolved), ``last.ckpt``, ``best.ckpt``, ``metrics.csv``,
    TensorBoard logs and pictures. SIGTERM and Ctrl-C end the process with a checkpoint and status
    75 and 130.

    Args:
        task: what the numbers mean.
        method: the architecture.
        train: what is learned from.
        val: what is scored every ``validate_every`` steps and at the end.
        optim: AdamW and its parameter groups.
        out: folder of the run.
        schedule: learning rate over the training; default: constant.
        augment: random changes of a training sample, in order.
        protocol: how validation is scored; without one there is the loss alone.
        steps: length of the training in optimiser steps; give this or ``epochs``.
        epochs: length of the training in passes over ``train``.
        batch_size: images per batch over all devices together.
        accumulate: batches per optimiser step.
        clip_norm: largest norm of the gradient; None does not clip.
        precision: ``32``, or mixed ``bf16`` / ``fp16``.
        seed: of initialisation, order, augmentation and draws.
        devices: processes; more than one trains with DDP (gloo on CPUs).
        accelerator: where to run.
        strategy: Lightning's, for FSDP and the like; ``auto`` is DDP on several devices.
        sync_batchnorm: batch statistics over all devices.
        workers: processes per device that read and augment.
        preload: processes that read all samples once before training, to keep them in memory;
            0 reads a sample whenever it is needed.
        checkpoint_every: optimiser steps between checkpoints.
        validate_every: optimiser steps between validations.
        monitor: validation score whose smallest value makes ``best.ckpt``: ``loss``, ``rmse`` ...
        resume: go on from ``out/last.ckpt``.
        plan: print the forecast and stop.

    Raises:
        InputError: one line about what cannot be used, with the repair.
    """
    recipe = {name: to_config(value) for name, value in locals().items() if name not in OWN}
    for name in ("lightning.pytorch", "lightning.fabric"):  # devices, ranks, tips
        logging.getLogger(name).setLevel(logging.WARNING)
    done = _steps_done(out, recipe) if resume else 0
    if not resume:
        _start(out, recipe)
    seed_everything(seed, verbose=False)
    model = DenseModel(task=task, method=method)
    if preload:
        train, val = (_preloaded(data, task.label, preload) for data in (train, val))
    stream = TrainingStream(
        dataset=train,
        label=task.label,
        augment=augment or (),
        batch_size=batch_size,
        seed=seed,
        workers=workers,
    )
    learner = Learner(
        model,
        stream=stream,
        optim=optim,
        schedule=schedule or Constant(),
        steps=_length(steps, epochs, stream, accumulate),
        accumulate=accumulate,
        validation=val,
        protocol=protocols.get(protocol) if protocol else None,
        recipe=recipe,
    )
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy="ddp" if strategy == "auto" and devices > 1 else strategy,
        precision=LIGHTNING_PRECISION[precision],
        sync_batchnorm=sync_batchnorm,
        max_steps=learner.steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip_norm,
        val_check_interval=validate_every * accumulate,
        check_val_every_n_epoch=None,
        default_root_dir=out,
        plugins=[AtomicCheckpoints()],
        logger=_loggers(out, done),
        callbacks=_callbacks(out, task, checkpoint_every, monitor),
        **OURS,
    )
    _check_shares(batch_size, val, trainer.world_size)
    _announce(learner, trainer, AUTOCAST[precision], done)
    if plan:
        return None
    with _without_pytree_warning():
        trainer.fit(learner, ckpt_path=out / LAST if resume else None, weights_only=True)
        return _finish(learner, trainer, out, AUTOCAST[precision])


@contextmanager
def _without_pytree_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        # Lightning 2.6 builds a class of torch's pytree that torch 2.13 deprecates
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        yield


@rank_zero_only
def _start(out: Path, recipe: dict[str, Plain]) -> None:
    """Make the folder and write the resolved recipe."""
    if (out / LAST).exists():
        raise InputError(f"{out}: holds a run already: add --resume, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    header = "".join(f"# {name} {version}\n" for name, version in versions().items())
    with replacing(out / "recipe.yaml") as partial:
        partial.write_text(header + yaml.safe_dump(recipe, sort_keys=False))


def _steps_done(out: Path, recipe: dict[str, Plain]) -> int:
    """Of the interrupted run, which must have been made with this recipe."""
    ours = load(out / LAST, mmap=True)[KEY]
    for name in FIXED:
        if ours["recipe"][name] != recipe[name]:
            raise InputError(
                f"{out / LAST}: trained with another {name!r} than this recipe's: resume with "
                f"{out / 'recipe.yaml'}, or start again in another folder"
            )
    return ours["schedule"]["step"]


def _check_shares(batch_size: int, val: AbstractDataset, world: int) -> None:
    """Every device must have a part of every batch and of the validation set."""
    if batch_size % world:
        raise InputError(
            f"batch_size {batch_size} does not divide by {world} devices: choose a multiple of it"
        )
    if len(val) < world:
        raise InputError(
            f"data set {val.name!r} has no sample to validate on for each of {world} devices"
        )


def _length(
    steps: int | None, epochs: float | None, stream: TrainingStream, accumulate: int
) -> int:
    if (steps is None) == (epochs is None):
        raise InputError("give either steps or epochs, the length of the training")
    if steps is None:
        steps = int((epochs or 0) * stream.batches_per_epoch / accumulate)
    if steps < 1:
        raise InputError(
            f"a training of {steps} steps has no end product: give more steps or epochs"
        )
    return steps


def _preloaded(data: AbstractDataset, label: str, workers: int) -> InMemory:
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("reading %d samples of %s", len(data), data.name)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(f"reading {data.name}", total=len(data))
        return InMemory(data, label=label, workers=workers, progress=lambda: bar.advance(row))


def _loggers(out: Path, first_step: int) -> list[Logger]:
    tensorboard = TensorBoardLogger(
        out, name="tensorboard", version="", default_hp_metric=False, purge_step=first_step or None
    )
    return [tensorboard, CsvLog(out / "metrics.csv", first_step=first_step)]


def _callbacks(out: Path, task: AbstractTask, every: int, monitor: str) -> list[Callback]:
    checkpoints = Checkpoints(out, every=every, monitor=monitor)
    pictures = Pictures(out / "pictures", task)
    return [ProgressBar(), pictures, checkpoints, Interrupts(checkpoints)]


@rank_zero_only
def _announce(learner: Learner, trainer: Trainer, autocast: torch.dtype | None, done: int) -> None:
    """What will be trained and what it will cost, measured on the device."""
    learner.to(trainer.strategy.root_device)
    cost = forecast(
        learner.model,
        learner.stream,
        steps=learner.steps - done,
        accumulate=learner.accumulate,
        world=trainer.world_size,
        autocast=autocast,
    )
    console = Console(stderr=True)
    console.print(table(learner.groups, learner.optim.lr))
    console.print(cost.describe(), highlight=False, soft_wrap=True)


def _finish(
    learner: Learner, trainer: Trainer, out: Path, autocast: torch.dtype | None
) -> Fitted | None:
    """Save the model and score it; what other devices than the first need not do."""
    if learner.protocol is None and learner.scored_step != learner.steps:
        trainer.validate(learner, verbose=False)
    if trainer.world_size > 1:
        # metrics would wait for the others
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if not trainer.is_global_zero:
        return None
    info = {
        "training": {
            "steps": learner.steps,
            "samples": len(learner.stream.dataset),
            "short_side": learner.stream.short_side(),
        }
    }
    folder = hub.save(learner.model, out / "model", info=info)
    blind = baselines(learner.stream.dataset, learner.model.task.label)
    blind.save(folder)
    if learner.protocol is None:
        return Fitted(learner.model, out, learner.scores, learner.validation, None)
    plan = Plan(batch_size=learner.stream.batch_size)
    predictor = Predictor(
        learner.model, plan, device=trainer.strategy.root_device, autocast=autocast
    )
    beside = rivals(blind.mean_map, blind.median)
    evaluation = evaluate(predictor, learner.validation, learner.protocol, beside=beside)
    hub.record(folder, evaluation.as_dict())
    return Fitted(learner.model, out, evaluation.scores["model"], learner.validation, evaluation)
