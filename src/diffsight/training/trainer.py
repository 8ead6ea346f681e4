"""Run a training with Lightning in an output folder, for ``fit`` and ``pretrain``."""

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from diffsight.atomic import replacing
from diffsight.choices import Dtype
from diffsight.config import Plain
from diffsight.errors import InputError
from diffsight.formats.text import reading, reason_of
from diffsight.locks import claim_folder
from diffsight.ops.device import default_device, mixed_dtype
from diffsight.ops.memory import keep_freed_memory
from diffsight.ops.precision import training_products
from diffsight.training.callbacks import (
    LAST,
    Checkpoints,
    Interrupts,
    MissedValidation,
    ProgressBar,
)
from diffsight.training.checkpoints import KEY, AtomicCheckpoints, load, versions
from diffsight.training.forecast import DAY_S, forecast, validations_left
from diffsight.training.learner import Learner
from diffsight.training.logs import CsvLog
from diffsight.training.optim import table
from diffsight.training.options import TrainerOptions

P = ParamSpec("P")
T = TypeVar("T")
RECIPE = "recipe.yaml"
log = logging.getLogger(__name__)
LIGHTNING_PRECISION: Mapping[Dtype, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}
# arguments that turn off features of Lightning that diffsight replaces
TRAINER_OVERRIDES: Mapping[str, Any] = {
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
}


def run_alone(training: Callable[P, T]) -> Callable[P, T]:
    """Decorate a training so that no other run can write to its folder ``out`` meanwhile.

    Args:
        training: function with a keyword argument ``out``; its first process locks the folder.
    """

    @functools.wraps(training)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        out = Path(str(kwargs["out"]))
        # the launcher of several devices starts the command again for each of them
        with rank_zero_only(claim_folder)(out) or nullcontext():
            return training(*args, **kwargs)

    return run


@rank_zero_only
def start(out: Path, recipe: Mapping[str, Plain]) -> None:
    """Make the folder of a run and write its recipe.

    Args:
        out: folder of the run.
        recipe: recipe with all defaults.

    Raises:
        InputError: if the folder already has a checkpoint.
    """
    if (out / LAST).exists():
        raise InputError(f"{out}: holds a run already: add --resume, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_recipe(out, recipe)


@rank_zero_only
def write_recipe(out: Path, recipe: Mapping[str, Plain]) -> None:
    """Write ``recipe.yaml``, with the versions of packages.

    Args:
        out: folder of the run.
        recipe: recipe with all defaults, and the options of a resumed run.
    """
    header = "".join(f"# {name} {version}\n" for name, version in versions().items())
    with replacing(out / RECIPE) as partial:
        partial.write_text(header + yaml.safe_dump(dict(recipe), sort_keys=False))


def has_begun(out: Path) -> bool:
    """Return whether a run has a checkpoint to continue from; without one it starts again.

    Raises:
        InputError: if the folder has neither a recipe nor a checkpoint.
    """
    if not (out / RECIPE).exists() and not (out / LAST).exists():
        raise InputError(f"{out}: holds no run to continue: start without --resume")
    return (out / LAST).exists()


def steps_done(out: Path, recipe: Mapping[str, Plain], fixed: Sequence[str]) -> int:
    """Return the finished steps of the interrupted run.

    Args:
        out: folder of the run.
        recipe: recipe of this run.
        fixed: keys of the recipe that must equal those of the interrupted run.

    Raises:
        InputError: if one of these keys differs, or the checkpoint is missing or damaged.
    """
    ours = load(out / LAST, mmap=True)[KEY]
    with reading(out / LAST, "damaged ({reason}): restore it or start again"):
        for name in fixed:
            if ours["recipe"][name] != recipe[name]:
                raise InputError(
                    f"{out / LAST}: trained with another {name!r} than this recipe's: resume with "
                    f"{out / 'recipe.yaml'}, or start again in another folder"
                )
        return int(ours["schedule"]["step"])


def trainer_for(
    learner: Learner, out: Path, options: TrainerOptions, pictures: Callback, *, done: int = 0
) -> Trainer:
    """Return a Lightning ``Trainer`` with diffsight's checkpoints, logs, signals and progress bar.

    Args:
        learner: learner to train.
        out: folder of the run.
        options: options of the training.
        pictures: callback that draws during validation.
        done: finished steps of an interrupted run.

    Raises:
        InputError: if the batch cannot be divided among the devices, an option does not fit the
            device or the strategy, or the interrupted run has more steps.
    """
    if done > learner.steps:
        raise InputError(
            f"{out}: {done} steps are finished, more than the {learner.steps} of this run: give "
            f"at least {done} steps"
        )
    for name in ("lightning.pytorch", "lightning.fabric"):  # devices, ranks, tips
        logging.getLogger(name).setLevel(logging.WARNING)
    keep_freed_memory()
    checkpoints = Checkpoints(out, every=options.checkpoint_every, monitor=options.monitor)
    devices = _devices(options, clips=bool(learner.step.clip_norms))
    try:
        trainer = Trainer(
            **devices,
            precision=LIGHTNING_PRECISION[options.dtype],
            sync_batchnorm=options.sync_batchnorm,
            max_steps=learner.steps,
            accumulate_grad_batches=learner.accumulate,
            val_check_interval=options.validate_every * learner.accumulate,
            default_root_dir=out,
            plugins=[AtomicCheckpoints()],
            logger=[
                TensorBoardLogger(
                    out, "tensorboard", "", default_hp_metric=False, purge_step=done or None
                ),
                CsvLog(out / "metrics.csv", first_step=done),
            ],
            callbacks=[
                ProgressBar(options.validate_every),
                pictures,
                checkpoints,
                Interrupts(checkpoints),
                MissedValidation(options.validate_every),
            ],
            **TRAINER_OVERRIDES,
        )
    except (ValueError, MisconfigurationException) as error:
        choice = ", ".join(f"{name}={value}" for name, value in devices.items())
        raise InputError(f"Lightning cannot train with {choice}: {reason_of(error)}") from None
    size, world = learner.stream.batch_size, trainer.world_size
    if size % world:
        repair = f"choose a multiple of {world}"
        raise InputError(f"batch_size {size} cannot be divided among {world} devices: {repair}")
    return trainer


def _devices(options: TrainerOptions, *, clips: bool) -> dict[str, Any]:
    """Return Lightning's arguments for the devices of a training.

    Args:
        options: options of the training.
        clips: whether gradients are clipped.

    Raises:
        InputError: if there is no such device, or an option does not fit it.
    """
    device = options.device or default_device()
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    if device == "cuda" and not gpus:
        raise InputError("device 'cuda' cannot be used (there is no GPU): choose device=cpu")
    if device == "cpu" and options.dtype == "float16":
        raise InputError("dtype float16 needs a GPU: choose dtype=bfloat16, or float32")
    devices = options.devices or gpus or os.cpu_count() or 1
    processes = devices * options.nodes
    if options.sync_batchnorm and device == "cpu" and processes > 1:
        raise InputError(
            f"sync_batchnorm: {processes} CPU processes cannot share the statistics of a batch "
            "(PyTorch does it on GPUs only): choose sync_batchnorm=false, or devices=1"
        )
    if clips and options.strategy.startswith("fsdp"):
        raise InputError(
            f"clip_norm needs all gradients, of which a device has only a part with strategy "
            f"{options.strategy}: choose strategy=ddp, or clip_norm=null"
        )
    strategy = "ddp" if options.strategy == "auto" and processes > 1 else options.strategy
    return {
        "accelerator": device,
        "devices": devices,
        "num_nodes": options.nodes,
        "strategy": strategy,
    }


@rank_zero_only
def announce(
    learner: Learner,
    trainer: Trainer,
    options: TrainerOptions,
    done: int,
    scored_images: float,
    *,
    advice: str = "",
) -> None:
    """Print the parameter groups, and memory and time of the training as measured on its device.

    Args:
        learner: learner to train.
        trainer: trainer that runs the learner.
        options: options of the training.
        done: finished steps of an interrupted run.
        scored_images: number of images of a validation, as for ``forecast``.
        advice: warning that is logged if the training takes a day or longer.
    """
    learner.to(trainer.strategy.root_device)
    cost = forecast(
        learner.objective,
        learner.stream,
        steps=learner.steps - done,
        accumulate=learner.accumulate,
        world=trainer.world_size,
        dtype=mixed_dtype(options.dtype),
        validations=validations_left(done, learner.steps, options.validate_every),
        scored_images=scored_images,
    )
    console = Console(stderr=True)
    console.print(table(learner.step.groups, learner.step.optim.lr))
    console.print(cost.describe(), highlight=False, soft_wrap=True)
    if cost.seconds >= DAY_S and advice:
        log.warning("%s", advice)


@contextmanager
def running(trainer: Trainer) -> Iterator[None]:
    """Return a context for a training, in TF32 if the GPU has it, that hides two warnings.

    Users cannot act on these warnings: Lightning 2.6 uses a pytree class that torch 2.13
    deprecates, and it warns about frozen parts, which stay in evaluation mode on purpose.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        with training_products(trainer.strategy.root_device):
            yield


def leave_others(trainer: Trainer) -> bool:
    """Wait for all devices and end their process group; return whether this is the first one."""
    if trainer.world_size > 1:
        # otherwise metrics would wait for the other devices
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return trainer.is_global_zero
