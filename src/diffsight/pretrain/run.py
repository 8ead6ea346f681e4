"""Run the stages of a pretraining one after another."""

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
from diffsight.pretrain.card import HISTORY, read_history, write_card
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
    write_recipe,
)

MODEL, CACHE = "model", "cache"  # folders of a run
DONE = "done"  # empty file in the folder of a finished stage
# arguments that are not part of a recipe
RUN_ONLY_ARGUMENTS = ("out", "cache", "resume")
# settings that must not change when a stage is resumed
STAGE_SETTINGS = ("images", "size", "seed", "dtype")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainerOptions):
    """The options of ``pretrain``.

    Args:
        images: number of rendered rooms in the training set.
        held_out: number of rooms in the validation set.
        size: side of the renderings in pixels.
        begin: initial model, a diffusers folder or ``tiny``; the stages train its parts further.
        cache: folder for renderings and latents; default: ``out/cache``.
        resume: continue the run in ``out``.
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
    """Train a model stage by stage; return its diffusers folder, ``out/model``.

    Every stage has its own folder in ``out`` with recipe, checkpoints, logs and pictures.
    Renderings, latents and other outputs of frozen networks are cached.

    Args:
        stages: stages in order. Each reads the parts of the earlier ones from ``out/model``.
        out: folder of the run.
        options: fields of ``PretrainOptions``.

    Raises:
        InputError: if an option, a stage or a folder cannot be used.
    """
    settings = PretrainOptions(**options)
    resolved = {"stages": stages, **vars(settings)}
    recipe = {k: to_config(v) for k, v in resolved.items() if k not in RUN_ONLY_ARGUMENTS}
    model, cache = out / MODEL, settings.cache or out / CACHE
    _check_names(stages)
    processes = os.cpu_count() or 1
    check_pictures(max(settings.images, settings.held_out), settings.size, processes)
    if not settings.resume:
        _prepare_run(out, settings.begin, recipe, stages, settings.size)
    train, val = (
        _open_split(cache, split, count, settings.size, processes)
        for split, count in (("train", settings.images), ("val", settings.held_out))
    )
    context = StageContext(model=model, cache=cache, train=train, held_out=val, seed=settings.seed)
    for stage in stages:
        if not (out / stage.name / DONE).is_file():
            _run_stage(stage, context, settings, out, recipe)
    if (model / "unet").is_dir():
        _write_card_if_complete(model)
    return model


def _write_card_if_complete(model: Path) -> None:
    """Write the model card, unless the UNet does not fit the autoencoder yet."""
    latent, unet = (config_of(model / part) for part in ("vae", "unet"))
    if latent["latent_channels"] == unet["in_channels"]:
        write_card(model)
    else:
        log.warning(
            "%s: the UNet does not fit the new autoencoder: train it with a Denoiser (--begin)",
            model,
        )


def _run_stage(
    stage: AbstractStage,
    context: StageContext,
    settings: PretrainOptions,
    out: Path,
    recipe: dict[str, Plain],
) -> None:
    folder = out / stage.name
    fixed = {name: to_config(getattr(settings, name)) for name in STAGE_SETTINGS}
    fixed["stage"] = to_config(stage)
    continues = (folder / LAST).is_file()
    done = steps_done(folder, fixed, tuple(fixed)) if continues else 0
    if not continues:
        start(folder, fixed)
    write_recipe(out, recipe)  # a resumed run may have other options, which the next one keeps
    seed_all(settings.seed)
    objective = stage.objective(
        context
    )  # first, because it may write the tokenizer that the batches need
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
        recipe=fixed,
    )
    trainer = trainer_for(learner, folder, settings, Previews(stage, context, folder), done=done)
    images = float(len(context.held_out))
    announce(learner, trainer, settings, done, scored_images=images)
    with running(trainer):
        trainer.fit(learner, ckpt_path=folder / LAST if continues else None, weights_only=True)
        if learner.scored_step != learner.steps:
            trainer.validate(learner, verbose=False)
    if trainer.is_global_zero:
        _export_stage(stage, learner, context, folder, minutes=_training_seconds(trainer) / 60)
    trainer.strategy.barrier()


class Previews(Callback):
    """Writes the preview picture of a stage, and logs its further scores, after every validation.

    Args:
        stage: stage that is trained.
        context: context of the stage.
        folder: folder of the stage.
    """

    def __init__(self, stage: AbstractStage, context: StageContext, folder: Path) -> None:
        self.stage = stage
        self.context = context
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the picture and log the scores, on the first device only."""
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


def _training_seconds(trainer: Any) -> float:
    (checkpoints,) = (c for c in trainer.callbacks if isinstance(c, Checkpoints))
    return checkpoints.seconds


def _check_names(stages: list[AbstractStage]) -> None:
    """Check that no two stages have the same name, because it names their folder too.

    Raises:
        InputError: if two stages have the same name.
    """
    for name, count in Counter(stage.name for stage in stages).items():
        if count > 1:
            raise InputError(
                f"{count} stages are named {name!r}, which is also the name of their folder: "
                "give each a `name` of its own"
            )


@rank_zero_only
def _prepare_run(
    out: Path, begin: Path | None, recipe: dict[str, Plain], stages: list[AbstractStage], size: int
) -> None:
    """Check the sizes of all stages, and create the model folder: empty, or a copy of ``begin``.

    Raises:
        InputError: if ``out`` already has a run, ``begin`` is not a model, or a size does not fit.
    """
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
        with staging(out / MODEL) as scratch:  # an interrupted copy would look like a model
            shutil.copytree(source, scratch, dirs_exist_ok=True)
            scratch.rename(out / MODEL)


def _open_split(cache: Path, split: str, count: int, size: int, processes: int) -> Pictures:
    """Return the pictures of a split; a progress bar shows how many are rendered."""
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


def _export_stage(
    stage: AbstractStage, learner: Learner, context: StageContext, folder: Path, *, minutes: float
) -> None:
    """Write the trained part to the model, add the stage to its history, and mark it as done."""
    stage.export(learner.objective.cpu(), context, context.model)
    history = read_history(context.model)
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
        write_json(partial, [*history, entry])
    (folder / DONE).touch()
