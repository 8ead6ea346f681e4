"""``fit``: a plain function whose signature is the schema of a recipe."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress

from diffsight import hub
from diffsight.config import Plain, to_config
from diffsight.datasets.base import AbstractDataset, AbstractTransform, Batch
from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor
from diffsight.inference.baselines import baselines_of
from diffsight.inference.evaluate import Evaluation, check_classes, evaluate, protocol_for
from diffsight.methods.base import MethodBuilder
from diffsight.model import DenseModel
from diffsight.tasks.base import AbstractTask
from diffsight.training.callbacks import LAST, Pictures
from diffsight.training.data import TrainingStream, validation_batches
from diffsight.training.learner import Learner, Validation
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
    quiet,
    start,
    steps_done,
    trainer_for,
)

# a resumed run must agree with the interrupted one in these
RESUME_INVARIANTS = ("task", "method", "augment", "optim", "schedule", "accumulate", "precision")
# arguments that are not part of the recipe
RUN_ONLY_ARGUMENTS = ("out", "cache", "resume", "plan")


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        model: with the last weights.
        folder: the run's folder; ``model/`` in it is the saved model.
        scores: of the validation set at the end: the protocol's, without one ``loss``.
        validation: what was scored.
        evaluation: the scores of model and baselines with all they depend on; None without a
            protocol.
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
    evaluation_plan: Plan | None = None,
    oracle_scene: bool = False,
    **options: Any,
) -> Fitted | None:
    """Train a model and save it to ``out/model``; the signature is the schema of a recipe.

    The folder also gets ``recipe.yaml`` (resolved), ``last.ckpt``, ``best.ckpt``, ``metrics.csv``,
    TensorBoard logs and pictures. SIGTERM and Ctrl-C end the process with a checkpoint and status
    75 and 130.

    Args:
        task: what the numbers mean; bins are fitted to the training set.
        method: the architecture.
        train: training set.
        val: validation set, scored every ``validate_every`` steps and at the end.
        optim: AdamW and its parameter groups.
        out: folder of the run.
        schedule: learning rate over the training; default: constant.
        augment: random changes of a training sample, in order.
        protocol: how validation is scored; without one there is the loss alone.
        evaluation_plan: how validation images are run, in training as at the end; default: the
            whole image in one pass. With a plan, validation has no ``loss``.
        oracle_scene: give the model the scene type of each validation sample (protocols of depth).
        options: of ``FitOptions``.

    Raises:
        InputError: one line about what cannot be used, with the repair.
    """
    given = {**locals()}
    _require_protocol(protocol, evaluation_plan, oracle_scene)
    settings = FitOptions(**given.pop("options"))
    resolved = {**given, **vars(settings)}
    recipe = {k: to_config(v) for k, v in resolved.items() if k not in RUN_ONLY_ARGUMENTS}
    done, checkpoint = _begin(out, recipe, settings)
    for data in (train, val):
        check_classes(task, data)
    seed_all(settings.seed)
    if settings.preload:
        train, val = (_preloaded(data, task.label, settings, out) for data in (train, val))
    model = build_fitted(task, method, train)
    sizes = {name: getattr(settings, name) for name in ("batch_size", "seed", "workers")}
    stream = TrainingStream(dataset=train, label=task.label, augment=augment or (), **sizes)
    rules = protocol_for(protocol, model, oracle_scene=oracle_scene) if protocol else None
    learner = Learner(
        Supervised(model, rules, evaluation_plan),
        stream=stream,
        optim=optim,
        schedule=schedule or Constant(),
        steps=settings.length(stream.batches_per_epoch),
        accumulate=settings.accumulate,
        clip_norm=settings.clip_norm,
        validation=_validation(val, task.label, settings),
        recipe=recipe,
    )
    trainer = trainer_for(learner, out, settings, Pictures(out / "pictures", model.task), done=done)
    announce(learner, trainer, settings, done)
    if settings.plan:
        return None
    with quiet():
        trainer.fit(learner, ckpt_path=checkpoint, weights_only=True)
        return _finish(learner, trainer, val, out, settings)


def _require_protocol(name: str | None, plan: Plan | None, oracle_scene: bool) -> None:
    """Refuse what would have no effect, before anything is read."""
    if name is None and (plan is not None or oracle_scene):
        raise InputError("evaluation_plan and oracle_scene are for a protocol: give one")


def _validation(val: AbstractDataset, label: str, settings: FitOptions) -> Validation:
    """Return what gives a device its validation batches."""

    def batches(rank: int, world: int) -> Iterator[Batch]:
        sizes = {"batch_size": settings.batch_size, "workers": settings.workers}
        return validation_batches(val, label=label, rank=rank, world=world, **sizes)

    return batches


def _begin(out: Path, recipe: dict[str, Plain], settings: FitOptions) -> tuple[int, Path | None]:
    """Make the folder of the run, or return the steps and the checkpoint of an interrupted one."""
    cache = settings.cache
    if cache is not None and not settings.preload:
        raise InputError("cache: nothing is preloaded: add --preload 2, or leave --cache out")
    if cache is not None and cache.resolve() == out.resolve():
        raise InputError(
            f"{cache}: is the run's own folder, whose samples go: give another --cache"
        )
    continues = settings.resume and has_begun(out)
    done = steps_done(out, recipe, RESUME_INVARIANTS) if continues else 0
    if not continues:
        start(out, recipe)
    if not settings.resume:
        _forget(out)
    return done, out / LAST if continues else None


@rank_zero_only
def _forget(out: Path) -> None:
    """Delete samples that an earlier run read: the files may have changed since.

    The first process alone does it, before it reads its own and the others come.
    """
    for path in out.glob(f"*{SAMPLES}"):
        path.unlink(missing_ok=True)


def _preloaded(data: AbstractDataset, label: str, settings: FitOptions, out: Path) -> InMemory:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(f"reading {data.name}", total=len(data))
        return in_memory(
            data,
            settings.cache or out,
            label=label,
            workers=settings.preload,
            progress=lambda: bar.advance(row),
        )


def _finish(
    learner: Learner, trainer: Trainer, val: AbstractDataset, out: Path, settings: FitOptions
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
        "training": {"steps": learner.steps, "samples": len(stream.dataset)},
        "short_side": stream.short_side(),
    }
    folder = hub.save(model, out / "model", info=info)
    baselines = baselines_of(stream.dataset, model.task)
    hub.write_baselines(folder, baselines)
    if protocol is None:
        return Fitted(model, out, learner.scores, val, None)
    predictor = Predictor(
        model,
        replace(learner.objective.plan or Plan(), batch_size=stream.batch_size),
        device=trainer.strategy.root_device,
        dtype=settings.dtype,
    )
    evaluation = evaluate(predictor, val, protocol, baselines=baselines)
    hub.record(folder, evaluation.as_dict())
    return Fitted(model, out, evaluation.scores["model"], val, evaluation)
