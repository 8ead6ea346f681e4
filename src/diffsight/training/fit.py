"""``fit``: train a model. Its signature is the schema of a recipe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress

from diffsight import hub
from diffsight.config import Plain, to_config
from diffsight.datasets.base import AbstractDataset, AbstractTransform
from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor
from diffsight.inference.baselines import compute_baselines
from diffsight.inference.evaluate import Evaluation, check_classes, evaluate, resolve_protocol
from diffsight.inference.sample_predictions import check_prompt_source
from diffsight.methods.base import MethodBuilder
from diffsight.model import DenseModel
from diffsight.ops.device import mixed_dtype
from diffsight.tasks.base import AbstractTask
from diffsight.training.callbacks import LAST, Pictures
from diffsight.training.data import TrainingStream, require_samples
from diffsight.training.learner import Learner
from diffsight.training.objective import Supervised
from diffsight.training.optim import AdamW
from diffsight.training.options import FitOptions
from diffsight.training.preload import SAMPLES, InMemory
from diffsight.training.preload import preload as in_memory
from diffsight.training.rng import seed_all
from diffsight.training.schedules import AbstractSchedule, Constant
from diffsight.training.statistics import build_fitted
from diffsight.training.trainer import (
    announce,
    has_begun,
    leave_others,
    run_alone,
    running,
    start,
    steps_done,
    trainer_for,
    write_recipe,
)

# keys that a resumed run must share with the interrupted one
RESUME_INVARIANTS = ("task", "method", "augment", "optim", "schedule", "accumulate", "dtype")
DAYS = (
    "this takes days: a GPU is faster, and so are the small recipes (minutes on two cores), such "
    "as vpd/folder_depth_small, vpd/folder_semantic_small and those of rooms/; `diffsight show "
    "recipes` lists all"
)
# arguments that are not part of the recipe
RUN_ONLY_ARGUMENTS = ("out", "cache", "resume", "plan")


@dataclass(frozen=True)
class Fitted:
    """The result of ``fit``.

    Attributes:
        model: model with the last weights.
        folder: folder of the run; its sub-folder ``model`` is the saved model.
        scores: final scores on the validation set by name: those of the protocol, or ``loss``
            without one.
        validation: validation set.
        evaluation: scores of the model and of trivial baselines, with the protocol, the plan and
            the data; None without a protocol.
    """

    model: DenseModel
    folder: Path
    scores: Mapping[str, float]
    validation: AbstractDataset
    evaluation: Evaluation | None


@run_alone
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
    evaluation_plan: Plan | None = None,
    oracle_scene: bool = False,
    **options: Any,
) -> Fitted | None:
    """Train a model and save it to ``out/model``; the signature is the schema of a recipe.

    The folder also gets ``recipe.yaml`` (with all defaults), ``last.ckpt``, ``best.ckpt``,
    ``metrics.csv``, TensorBoard logs and pictures. After SIGTERM or Ctrl-C the process saves a
    checkpoint and exits with status 75 or 130.

    Args:
        task: task, which defines labels, loss and metric; its bins are fitted to the training set.
        method: function that builds the method, usually a class with some of its arguments.
        train: training set.
        val: validation set, scored every ``validate_every`` steps and at the end.
        optim: AdamW and its parameter groups.
        out: folder of the run.
        schedule: learning rate over the training; default: constant.
        augment: augmentations of a training sample, in order.
        protocol: name of the evaluation protocol of the validation; without one only the loss is
            computed.
        evaluation_plan: how the model is run on validation images, during the training and at the
            end; default: on the whole image in one pass. With a plan, validation has no ``loss``.
        oracle_scene: give the model the scene type of each validation sample (protocols of depth).
        options: fields of ``FitOptions``.

    Returns:
        The result; None with the option ``plan``, and on all devices but the first.

    Raises:
        InputError: if an argument cannot be used; the message has one line with the repair.
    """
    arguments = {**locals()}
    if protocol is None and (evaluation_plan is not None or oracle_scene):
        raise InputError("evaluation_plan and oracle_scene need a protocol: give one")
    settings = FitOptions(**arguments.pop("options"))
    resolved = {**arguments, **vars(settings)}
    recipe = {k: to_config(v) for k, v in resolved.items() if k not in RUN_ONLY_ARGUMENTS}
    done, checkpoint = _begin(out, recipe, settings)
    for data in (train, val):
        check_classes(task, data)
    seed_all(settings.seed)
    if settings.preload:
        train, val = (_preloaded(data, task.label, settings, out) for data in (train, val))
    model = build_fitted(task, method, train, settings.begin if checkpoint is None else None)
    stream = _stream(train, task.label, augment or (), settings)
    rules = resolve_protocol(protocol, model, oracle_scene=oracle_scene) if protocol else None
    learner = Learner(
        Supervised(model, rules, evaluation_plan),
        stream=stream,
        optim=optim,
        schedule=schedule or Constant(),
        steps=settings.length(stream.batches_per_epoch),
        accumulate=settings.accumulate,
        clip_norm=settings.clip_norm,
        validation=partial(stream.validation_batches, val),
        recipe=recipe,
    )
    trainer = trainer_for(learner, out, settings, Pictures(out / "pictures", model.task), done=done)
    _check_validation(learner, val, settings.monitor, trainer.world_size)
    announce(learner, trainer, settings, done, _scored_images(val, stream), advice=DAYS)
    if settings.plan:
        return None
    write_recipe(out, recipe)  # a resumed run may have other options, which the next one keeps
    with running(trainer):
        trainer.fit(learner, ckpt_path=checkpoint, weights_only=True)
        return _finish(learner, trainer, val, out, settings)


def _stream(
    train: AbstractDataset,
    label: str,
    augment: Sequence[AbstractTransform],
    settings: FitOptions,
) -> TrainingStream:
    """Return the stream of training batches."""
    return TrainingStream(
        dataset=train,
        label=label,
        augment=augment,
        batch_size=settings.batch_size,
        seed=settings.seed,
        workers=settings.workers,
    )


def _check_validation(learner: Learner, val: AbstractDataset, monitor: str, world: int) -> None:
    """Check the validation set: a sample for each device, its prompts, and the score to monitor.

    Raises:
        InputError: if it has too few samples, prompts of another source than the protocol states,
            or no such score.
    """
    assert isinstance(learner.objective, Supervised)
    if learner.objective.protocol is not None:
        check_prompt_source(learner.objective.model, val, learner.objective.protocol)
    require_samples(val, world)
    learner.objective.require_score(monitor, val[0])


def _scored_images(val: AbstractDataset, stream: TrainingStream) -> float:
    """Return the number of validation images, each weighted by its size for the forecast.

    The weight is the image's number of pixels divided by that of an augmented training image. An
    image counts once per sentence. All images are assumed to be like the first one.
    """
    if not len(val):
        return 0.0
    sample = val[0]
    trained = stream.example_pixels()
    return len(val) * len(sample.split_by_sentence()) * sample.numel / trained


def _begin(out: Path, recipe: dict[str, Plain], settings: FitOptions) -> tuple[int, Path | None]:
    """Prepare the folder of a run; return its finished steps and the checkpoint to resume from.

    A new run has 0 finished steps, and None as its checkpoint.
    """
    cache = settings.cache
    if cache is not None and not settings.preload:
        raise InputError("cache: nothing is preloaded: add --preload 2, or leave --cache out")
    if cache is not None and cache.resolve() == out.resolve():
        raise InputError(
            f"{cache}: is the folder of the run, in which preloaded samples are deleted at the "
            "end: give another --cache"
        )
    continues = settings.resume and has_begun(out)
    done = steps_done(out, recipe, RESUME_INVARIANTS) if continues else 0
    if not continues:
        start(out, recipe)
    if not settings.resume:
        _delete_samples(out)
    return done, out / LAST if continues else None


@rank_zero_only
def _delete_samples(out: Path) -> None:
    """Delete the preloaded samples in the folder of a run.

    A new run must not use those of an earlier one, because the data set may have changed. Only the
    first process deletes them, before the other processes start.
    """
    for path in out.glob(f"*{SAMPLES}"):
        path.unlink(missing_ok=True)


def _preloaded(data: AbstractDataset, label: str, settings: FitOptions, out: Path) -> InMemory:
    """Return a data set whose samples are all in memory; a progress bar is shown meanwhile."""
    with _bar(f"reading {data.name}", len(data)) as advance:
        return in_memory(
            data, settings.cache or out, label=label, workers=settings.preload, progress=advance
        )


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal; yield a function that advances it by one of ``total``."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(text, total=total)
        yield lambda: bar.advance(row)


def _finish(
    learner: Learner, trainer: Trainer, val: AbstractDataset, out: Path, settings: FitOptions
) -> Fitted | None:
    """Save and evaluate the model on the first device and return the result; None on all others."""
    assert isinstance(learner.objective, Supervised)
    assert isinstance(learner.stream, TrainingStream)
    model, protocol, stream = learner.objective.model, learner.objective.protocol, learner.stream
    if protocol is None and learner.scored_step != learner.steps:
        trainer.validate(learner, verbose=False)
    if not leave_others(trainer):
        return None
    _delete_samples(out)
    info = {
        "training": {"steps": learner.steps, "samples": len(stream.dataset)},
        "short_side": stream.short_side(),
    }
    model.baselines = compute_baselines(stream.dataset, model.task)
    folder = hub.save(model, out / "model", info=info)
    if protocol is None:
        return Fitted(model, out, learner.scores, val, None)
    predictor = Predictor(
        model,
        replace(learner.objective.plan or Plan(), batch_size=stream.batch_size),
        device=trainer.strategy.root_device,
        dtype=mixed_dtype(settings.dtype),
    )
    with _bar(f"evaluating on {val.name}", len(val)) as advance:
        evaluation = evaluate(predictor, val, protocol, baselines=model.baselines, advance=advance)
    hub.record(folder, evaluation.as_dict())
    return Fitted(model, out, evaluation.scores["model"], val, evaluation)
