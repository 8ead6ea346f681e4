"""``fit``: a plain function whose signature is the schema of a recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress

from diffsight import hub
from diffsight.config import to_config
from diffsight.datasets.base import AbstractDataset, AbstractTransform, Batch
from diffsight.errors import InputError
from diffsight.inference.evaluate import Evaluation, check_classes, evaluate, protocol_for
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.methods.base import MethodBuilder
from diffsight.model import DenseModel
from diffsight.tasks.base import AbstractTask
from diffsight.training.baselines import baselines, save_baselines
from diffsight.training.callbacks import LAST, Pictures
from diffsight.training.data import TrainingStream, ValidationBatches
from diffsight.training.learner import Learner, Validation
from diffsight.training.objective import Supervised
from diffsight.training.optim import AdamW
from diffsight.training.preload import SAMPLES, InMemory
from diffsight.training.preload import preload as in_memory
from diffsight.training.schedules import AbstractSchedule, Constant
from diffsight.training.trainer import (
    AUTOCAST,
    Accelerator,
    Precision,
    announce,
    has_begun,
    leave_others,
    quiet,
    start,
    steps_done,
    trainer_for,
)

# a resumed run must agree with the interrupted one in these
FIXED = ("task", "method", "augment", "optim", "schedule", "accumulate", "precision")
# arguments that are not part of the recipe
OWN = ("out", "cache", "resume", "plan")


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
    accelerator: Accelerator = "auto",
    strategy: str = "auto",
    sync_batchnorm: bool = False,
    workers: int = 2,
    preload: int = 0,
    cache: Path | None = None,
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
        devices: processes; more than one trains with DDP (gloo on CPUs); 0 takes one per GPU, or
            one per core where there is none.
        accelerator: where to run.
        strategy: Lightning's, for FSDP and the like; ``auto`` is DDP on several devices.
        sync_batchnorm: batch statistics over all devices.
        workers: processes per device that read and augment.
        preload: processes that read all samples once before training, to keep them in memory (and
            on disk until it is finished); 0 reads a sample whenever it is needed.
        cache: folder where preloaded samples stay, for other runs on the same data (files that
            or code that changed since are not noticed); default: with the run, until it is
            finished.
        checkpoint_every: optimiser steps between checkpoints.
        validate_every: optimiser steps between validations.
        monitor: validation score whose best value makes ``best.ckpt``: ``loss``, ``rmse``, ``oiou``
            ...
        resume: go on from ``out/last.ckpt``; a run stopped before the first one begins anew.
        plan: print the forecast and stop.

    Raises:
        InputError: one line about what cannot be used, with the repair.
    """
    recipe = {name: to_config(value) for name, value in locals().items() if name not in OWN}
    _check_cache(cache, preload, out)
    goes_on = resume and has_begun(out)
    done = steps_done(out, recipe, FIXED) if goes_on else 0
    if not goes_on:
        start(out, recipe)
    if not resume:
        _forget(out)
    for data in (train, val):
        check_classes(task, data)
    seed_everything(seed, verbose=False)
    model = DenseModel(task=task, method=method)
    if preload:
        train, val = (_preloaded(data, task.label, preload, cache or out) for data in (train, val))
    stream = TrainingStream(
        dataset=train,
        label=task.label,
        augment=augment or (),
        batch_size=batch_size,
        seed=seed,
        workers=workers,
    )
    learner = Learner(
        Supervised(model, protocol_for(protocol, model) if protocol else None),
        stream=stream,
        optim=optim,
        schedule=schedule or Constant(),
        steps=_length(steps, epochs, stream, accumulate),
        accumulate=accumulate,
        validation=_validation(val, stream),
        recipe=recipe,
    )
    trainer = trainer_for(
        learner,
        out,
        pictures=Pictures(out / "pictures", task),
        done=done,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        sync_batchnorm=sync_batchnorm,
        precision=precision,
        clip_norm=clip_norm,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        monitor=monitor,
    )
    announce(learner, trainer, precision, done)
    if plan:
        return None
    with quiet():
        trainer.fit(learner, ckpt_path=out / LAST if goes_on else None, weights_only=True)
        return _finish(learner, trainer, val, out, precision)


def _validation(val: AbstractDataset, stream: TrainingStream) -> Validation:
    """A device's part of the validation set.

    Raises:
        InputError: if a device has none.
    """

    def batches(rank: int, world: int) -> Iterable[Batch]:
        if len(val) < world:
            raise InputError(
                f"data set {val.name!r} has no sample to validate on for each of {world} devices"
            )
        return ValidationBatches(
            val,
            label=stream.label,
            batch_size=max(1, stream.batch_size // world),
            workers=stream.workers,
            rank=rank,
            world=world,
        )

    return batches


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


@rank_zero_only
def _forget(out: Path) -> None:
    """Samples that an earlier run read go: the files may have changed since.

    The first process alone does it, before it reads its own and the others come.
    """
    for path in out.glob(f"*{SAMPLES}"):
        path.unlink(missing_ok=True)


def _check_cache(cache: Path | None, preload: int, out: Path) -> None:
    if cache is not None and not preload:
        raise InputError("cache: nothing is preloaded: add --preload 2, or leave --cache out")
    if cache is not None and cache.resolve() == out.resolve():
        raise InputError(
            f"{cache}: is the run's own folder, whose samples go: give another --cache"
        )


def _preloaded(data: AbstractDataset, label: str, workers: int, folder: Path) -> InMemory:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(f"reading {data.name}", total=len(data))
        return in_memory(
            data, folder, label=label, workers=workers, progress=lambda: bar.advance(row)
        )


def _finish(
    learner: Learner, trainer: Trainer, val: AbstractDataset, out: Path, precision: Precision
) -> Fitted | None:
    """Save the model and score it; what other devices than the first need not do."""
    assert isinstance(learner.objective, Supervised)
    assert isinstance(learner.stream, TrainingStream)
    model, protocol, stream = learner.objective.model, learner.objective.protocol, learner.stream
    if protocol is None and learner.scored_step != learner.steps:
        trainer.validate(learner, verbose=False)
    if not leave_others(trainer):
        return None
    _forget(out)
    info = {
        "training": {
            "steps": learner.steps,
            "samples": len(stream.dataset),
            "short_side": stream.short_side(),
        }
    }
    folder = hub.save(model, out / "model", info=info)
    blind = baselines(stream.dataset, model.task)
    save_baselines(blind, folder)
    if protocol is None:
        return Fitted(model, out, learner.scores, val, None)
    predictor = Predictor(
        model,
        Plan(batch_size=stream.batch_size),
        device=trainer.strategy.root_device,
        autocast=AUTOCAST[precision],
    )
    evaluation = evaluate(predictor, val, protocol, beside=blind)
    hub.record(folder, evaluation.as_dict())
    return Fitted(model, out, evaluation.scores["model"], val, evaluation)
