"""``pretrain``: the stages one after another; the signature is the schema of a recipe."""

import logging
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress

from diffsight import assets
from diffsight.atomic import replacing, staging
from diffsight.config import Plain, to_config
from diffsight.errors import InputError
from diffsight.pretrain.card import HISTORY, describe, read_history
from diffsight.pretrain.folder import config_of, stride_of, write_json
from diffsight.pretrain.pictures import Pictures, check_pictures, open_pictures
from diffsight.pretrain.stage import AbstractStage, PictureStream, StageContext
from diffsight.training.callbacks import LAST, Checkpoints, write_sheet
from diffsight.training.learner import Learner
from diffsight.training.options import TrainerOptions
from diffsight.training.rng import seed_all
from diffsight.training.schedules import Constant
from diffsight.training.trainer import (
    announce,
    run_alone,
    running,
    start,
    steps_done,
    trainer_for,
)

MODEL, CACHE, DONE = "model", "cache", "done"
# arguments that are not part of the recipe
RUN_ONLY_ARGUMENTS = ("out", "cache", "resume")
# what a resumed stage must agree with
STAGE_SETTINGS = ("images", "size", "seed", "precision")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainerOptions):
    """How ``pretrain`` runs.

    Args:
        images: rendered rooms to learn from.
        held_out: rooms that are only scored.
        size: of the renderings in pixels.
        begin: a diffusers folder, or ``tiny``, whose parts the stages train further.
        cache: where renderings and latents are kept; default: ``out/cache``.
        resume: continue where the run in ``out`` stopped.
    """

    images: int = 20000
    held_out: int = 500
    size: int = 128
    begin: Path | None = None
    cache: Path | None = None
    devices: int = 0
    clip_norm: float | dict[str, float] | None = 1.0
    checkpoint_every: int = 200


@run_alone
def pretrain(*, stages: list[AbstractStage], out: Path, **options: Any) -> Path:
    """Train the stages into a diffusers folder, ``out/model``; return it.

    Every stage has a folder of its own in ``out`` with recipe, checkpoints, logs and pictures. What
    is computed once (renderings, latents) is kept in the cache.

    Args:
        stages: in order; each finds in ``out/model`` what the ones before it made.
        out: folder of the run.
        options: of ``PretrainOptions``.

    Raises:
        InputError: one line about what cannot be used, with the repair.
    """
    settings = PretrainOptions(**options)
    resolved = {"stages": stages, **vars(settings)}
    recipe = {k: to_config(v) for k, v in resolved.items() if k not in RUN_ONLY_ARGUMENTS}
    model, cache = out / MODEL, settings.cache or out / CACHE
    _check_names(stages)
    processes = os.cpu_count() or 1
    check_pictures(max(settings.images, settings.held_out), settings.size, processes)
    if not settings.resume:
        _lay_out(out, settings.begin, recipe, stages, settings.size)
    train, val = (
        _pictures(cache, split, count, settings.size, processes)
        for split, count in (("train", settings.images), ("val", settings.held_out))
    )
    context = StageContext(model=model, cache=cache, train=train, held_out=val, seed=settings.seed)
    for stage in stages:
        if not (out / stage.name / DONE).is_file():
            _run_stage(stage, context, out / stage.name, settings)
    if (model / "unet").is_dir():
        _describe(model)
    return model


def _describe(model: Path) -> None:
    """Write the card, unless the UNet still awaits its training on a new autoencoder."""
    latent, unet = (config_of(model / part) for part in ("vae", "unet"))
    if latent["latent_channels"] == unet["in_channels"]:
        describe(model)
    else:
        log.warning(
            "%s: the UNet is that of another autoencoder: train it with a Denoiser (--begin)", model
        )


def _run_stage(
    stage: AbstractStage, context: StageContext, folder: Path, settings: PretrainOptions
) -> None:
    recipe = {name: to_config(getattr(settings, name)) for name in STAGE_SETTINGS}
    recipe["stage"] = to_config(stage)
    continues = (folder / LAST).is_file()
    done = steps_done(folder, recipe, tuple(recipe)) if continues else 0
    if not continues:
        start(folder, recipe)
    seed_all(settings.seed)
    objective = stage.objective(context)  # comes first: it may write what the batches need
    stream = PictureStream(
        pictures=len(context.train),
        fetch=stage.fetch(context),
        batch_size=stage.batch_size,
        seed=context.seed,
    )
    learner = Learner(
        objective,
        stream=stream,
        optim=stage.optim,
        schedule=stage.schedule or Constant(),
        steps=stage.steps,
        clip_norm=settings.clip_norm,
        validation=stage.held_out(context),
        recipe=recipe,
    )
    trainer = trainer_for(learner, folder, settings, Previews(stage, context, folder), done=done)
    images = float(len(context.held_out))
    announce(learner, trainer, settings, done, scored_images=images)
    with running(trainer):
        trainer.fit(learner, ckpt_path=folder / LAST if continues else None, weights_only=True)
        if learner.scored_step != learner.steps:
            trainer.validate(learner, verbose=False)
    if trainer.is_global_zero:
        _finish(stage, learner, context, folder, minutes=_seconds(trainer) / 60)
    trainer.strategy.barrier()


class Previews(Callback):
    """Pictures and further scores of a stage, after every validation.

    Args:
        stage: makes the picture.
        context: what the stage was made from.
        folder: of the stage's run.
    """

    def __init__(self, stage: AbstractStage, context: StageContext, folder: Path) -> None:
        self.stage = stage
        self.context = context
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and measure on the first device."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Learner)
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            sheet, scores = self.stage.preview(pl_module.objective, self.context, Path(scratch))
        write_sheet(trainer, self.folder / "pictures", sheet)
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{k}": v for k, v in scores.items()}, trainer.global_step)
        if scores:
            text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            log.info("step %d: %s", trainer.global_step, text)


def _seconds(trainer: Any) -> float:
    (checkpoints,) = (c for c in trainer.callbacks if isinstance(c, Checkpoints))
    return checkpoints.seconds


def _check_names(stages: list[AbstractStage]) -> None:
    """Refuse two stages of one name: the second would be taken for finished."""
    for name, count in Counter(stage.name for stage in stages).items():
        if count > 1:
            raise InputError(
                f"{count} stages are named {name!r} and would have one folder: give each a "
                "`name` of its own"
            )


@rank_zero_only
def _lay_out(
    out: Path, begin: Path | None, recipe: dict[str, Plain], stages: list[AbstractStage], size: int
) -> None:
    """Make an empty model folder, or copy the one to begin with, once all sizes are checked."""
    if (out / MODEL).exists():
        raise InputError(f"{out}: holds a run already: add --resume, or choose another --out")
    source = assets.find(str(begin)) if str(begin) in assets.DIFFUSION else begin
    if source is not None and not (source / "vae").is_dir():
        raise InputError(f"{source}: no model to begin with: give a diffusers folder, or tiny")
    if source is not None:
        read_history(source)
    stride = stride_of(source / "vae") if source and stages else None
    for stage in stages:
        stride = stage.check(size, stride)
    start(out, recipe)
    if source is None:
        (out / MODEL).mkdir()
    else:
        with staging(out / MODEL) as scratch:  # a half copy would look like a model
            shutil.copytree(source, scratch, dirs_exist_ok=True)
            scratch.rename(out / MODEL)


def _pictures(cache: Path, split: str, count: int, size: int, processes: int) -> Pictures:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(f"rooms for {split}", total=count)
        return open_pictures(
            cache,
            split=split,
            count=count,
            size=size,
            processes=processes,
            advance=lambda images: bar.advance(row, images),
        )


def _finish(
    stage: AbstractStage, learner: Learner, context: StageContext, folder: Path, *, minutes: float
) -> None:
    """Add the part to the model, with a line of its history."""
    stage.export(learner.objective.cpu(), context, context.model)
    past = read_history(context.model)
    entry = {
        "stage": stage.name,
        "steps": stage.steps,
        "batch_size": stage.batch_size,
        "pictures": len(context.train),
        "minutes": round(minutes, 1),
        "scores": {name: round(value, 4) for name, value in learner.scores.items()},
        "teachers": list(stage.teachers),
    }
    with replacing(context.model / HISTORY) as partial:
        write_json(partial, [*past, entry])
    (folder / DONE).touch()
