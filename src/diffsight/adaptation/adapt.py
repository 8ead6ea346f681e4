"""``adapt``: train a model on a folder of images and labels."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffsight.adaptation.candidates import (
    AUTO,
    CHECKPOINTING,
    SHORT_NAMES,
    Candidate,
    backbone_sources,
    candidates,
    split_specs,
)
from diffsight.adaptation.options import AdaptOptions
from diffsight.adaptation.selection import Progress, Selection
from diffsight.backbones import BackboneSource
from diffsight.choices import Spacing
from diffsight.config import to_config
from diffsight.datasets.base import Sample
from diffsight.datasets.class_lists import read_class_list
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError, TooLargeError, suggest
from diffsight.inference.baselines import compute_small_baselines
from diffsight.model import DenseModel
from diffsight.ops.device import mixed_dtype, usable_device
from diffsight.ops.memory import give_back_memory, keep_freed_memory, report_out_of_memory
from diffsight.tasks import AbstractTask, Depth, Normals, Segmentation, Values
from diffsight.training.loop import Runtime, require_memory
from diffsight.training.state import AdaptState

log = logging.getLogger(__name__)
TASK_FIELDS = ("bins", "spacing", "alpha", "hard_labels")  # that a method spec may set too
# options that must be the same when an adaptation is resumed
DECISIVE = ("steps", "seed", "alpha", "hard_labels", "codebook", "clip", "maps", "device", "dtype")


@dataclass(frozen=True)
class Plan:
    """The data and the candidates of an adaptation, shown before it starts.

    Attributes:
        folder: labelled images.
        task: task fitted to them.
        candidates: methods on backbones that will be compared.
        validation: held-out images with their labels, or None.
    """

    folder: LabelledFolder
    task: AbstractTask
    candidates: Sequence[Candidate]
    validation: LabelledFolder | None = None


def adapt(
    images: str | Path,
    labels: str | Path,
    *,
    kind: str,
    method: str = "auto",
    backbone: str | Path | BackboneSource = "auto",
    announce: Callable[[Plan], None] | None = None,
    advance: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> DenseModel:
    """Train a model for a dense task on a few labelled images.

    Args:
        images: folder of images.
        labels: folder of labels with the same names, a JSON file of COCO, or a CSV file of points.
        kind: ``segmentation``, ``depth``, ``scalar``, ``normals`` or ``vector``.
        method: ``few_shot`` is the paper's, ``feature_head`` a light head on the frozen features,
            ``auto`` both of them, where the backbone is a diffusion model; also ``linear_probe``,
            ``vpd``, ``evp``, ``meta_prompts``, ``ddp``, ``small_unet``, the full path of a class,
            or several of them with commas. Each may have options (``few_shot:codebook=5``), see
            ``candidates.parse_spec``.
        backbone: as for ``BackboneSource``, several of them with commas, or one that is loaded;
            ``auto`` is ``AUTO_BACKBONES``: ``tiny``, and ``efficientnet-lite0`` at 128, at 256, and
            at both sizes. Every method is tried on every backbone that it supports, and the
            best pair on held-out images is kept.
        announce: called with the plan before anything is computed.
        advance: called after every step.
        options: of ``AdaptOptions``.

    Returns:
        The model, on the CPU; ``model.info["held_out"]`` holds the scores on held-out images. After
        Ctrl-C the model that is trained so far is returned.

    Raises:
        InputError: if an input cannot be used: one line with the repair.
    """
    settings = _settings(kind, options)
    runtime = Runtime(torch.device(str(settings.device)), mixed_dtype(settings.dtype))
    keep_freed_memory()
    sources = (
        [backbone]
        if isinstance(backbone, BackboneSource)
        else backbone_sources(backbone, short_side=settings.short_side)
    )
    folder, others = _read(Path(images), Path(labels), kind, settings)
    task = (fit_task := partial(_task_of, folder, labels, settings))()
    every = [*folder.samples, *(others.samples if others else ())]
    names = _method_names(method, sources)
    shared = {"options": settings.of_methods, "trusted": settings.trusted}
    pairs = candidates(names, sources, fit_task, short_side=settings.short_side, **shared)
    for side in sorted({pair.short_side for pair in pairs}):
        require_memory(len(every), side, runtime)
    if announce:
        announce(Plan(folder, task, pairs, others))
    mirror = task.is_mirrorable if settings.mirror is None else settings.mirror
    labels_hash = _digest(task, every, folder.label)
    choices = (kind, names, [pair.short_side for pair in pairs], mirror)
    selection = Selection(
        folder.samples,
        task,
        pairs,
        seed=settings.seed,
        validation=others.samples if others else None,
        advance=advance,
        state=_open_state(settings, sources, choices, (folder, others), labels_hash),
        mirror=mirror,
        runtime=runtime,
        calibrate=settings.calibrate is not False,
    )
    model = _run(selection, settings, folder)
    chosen = next(pair for pair in pairs if pair.name == model.info["chosen"])
    model.info |= {"mirror": mirror, **_facts(folder, settings, chosen)}
    return model


def _settings(kind: str, options: Mapping[str, Any]) -> AdaptOptions:
    """Return the checked options, with the device and the dtype that the training uses."""
    names = [field.name for field in fields(AdaptOptions)]
    for name in options:
        if name not in names:
            raise InputError(f"unknown option {name!r}: {suggest(name, names)}")
    settings = AdaptOptions(**options)
    settings.check_kind(kind)
    dtype = mixed_dtype(settings.dtype)
    if dtype is torch.float16:
        raise InputError("adapt does not scale its loss, which float16 needs: choose bfloat16")
    return replace(settings, device=usable_device(settings.device), dtype=dtype)


def _method_names(method: str, sources: Sequence[BackboneSource]) -> tuple[str, ...]:
    """Return the method specs; ``auto`` keeps those that at least one backbone supports."""
    if method != "auto":
        return tuple(split_specs(method))
    return tuple(n for n in AUTO if any(SHORT_NAMES[n].supports(one) for one in sources))


def _facts(folder: LabelledFolder, settings: AdaptOptions, chosen: Candidate) -> dict[str, Any]:
    """Return the facts about an adaptation that are saved with the model."""
    invalid = folder.form.invalid
    return {
        "kind": folder.form.kind,
        "unit": folder.form.value_unit,
        # evaluate reads labels in the same way
        "label_unit": folder.form.unit,
        "label_invalid": invalid if invalid is not None and math.isfinite(invalid) else None,
        "backbone": str(chosen.source),
        "alpha": to_config(chosen.spec.task.get("alpha", settings.alpha)),
        "samples": [sample.id for sample in folder.samples],
    }


def _open_state(
    settings: AdaptOptions,
    sources: Sequence[BackboneSource],
    choices: Sequence[Any],
    parts: tuple[LabelledFolder, LabelledFolder | None],
    labels_hash: str,
) -> AdaptState:
    """Return the state to resume from; it is tied to everything that decides the result."""
    decisive = {
        "settings": [*choices, *(str(getattr(settings, name)) for name in DECISIVE)],
        "backbones": [[one.name, one.side_px, one.revision] for one in sources],
        # which images are held out decides too
        "samples": [one and [sample.id for sample in one.samples] for one in parts],
        "labels": labels_hash,
    }
    return AdaptState.open(settings.state, decisive, settings.resume)


def _read(
    images: Path, labels: Path, kind: str, settings: AdaptOptions
) -> tuple[LabelledFolder, LabelledFolder | None]:
    """Return the training images and the validation images."""
    form = LabelFormat(kind, settings.unit, settings.invalid, settings.snap)
    names, shots = settings.classes, settings.shots
    if isinstance(names, str | Path):
        names = read_class_list(Path(names))
    folder = read_labelled_folder(images, labels, form, classes=names, shots=shots)
    return folder, _read_validation(settings.validation, form, folder)


def _task_of(
    folder: LabelledFolder, labels: str | Path, settings: AdaptOptions, **options: Any
) -> AbstractTask:
    """Return the task with the options of a method spec, or else of the adaptation."""
    merged = replace(settings, **options)
    merged.check_kind(folder.form.kind)
    try:
        return task_for(folder, **{name: getattr(merged, name) for name in TASK_FIELDS})
    except InputError as error:
        raise InputError(f"{labels}: {error}") from None


def task_for(
    folder: LabelledFolder,
    *,
    bins: int | None = None,
    spacing: Spacing | None = None,
    alpha: float = 1.0,
    hard_labels: bool = False,
) -> AbstractTask:
    """Return the task of a kind of labels, fitted to them.

    Args:
        folder: labelled images.
        bins: classes that numbers are divided into; default: 50 for depth, 20 for a scalar, 40 for
            vectors (as in the paper), and at most the number of different values.
        spacing: spacing of the bins; default: ``log`` for depth, ``log1p`` for a scalar.
        alpha: weight of the squared error relative to the cross-entropy.
        hard_labels: label vectors become the nearest codebook vector, not a mixture.

    Raises:
        InputError: if the labels cannot be used (constant, not finite, fewer than the bins).
    """
    kind = folder.form.kind
    if kind == "segmentation":
        return Segmentation(
            folder.names, ids=folder.ids, colours=folder.colours, label=folder.label
        )
    values = folder.values()
    shared: dict[str, Any] = {"label": folder.label, "bins": bins or "auto", "alpha": alpha}
    spaced: dict[str, Any] = {"spacing": spacing} if spacing else {}
    task: AbstractTask
    if kind == "depth":
        task = Depth(max_depth_m=None, **shared, **spaced)
    elif kind == "normals":
        task = Normals(hard_labels=hard_labels, **shared)
    else:
        unit = folder.form.value_unit
        task = Values(
            channels=values.shape[1], unit=unit, hard_labels=hard_labels, **shared, **spaced
        )
    return task.fitted(values)


def _run(selection: Selection, settings: AdaptOptions, folder: LabelledFolder) -> DenseModel:
    """Run a selection. If memory runs out, use smaller batches, or report the size that fits."""
    side = selection.short_side
    advice = f"{selection.runtime.device} has not enough memory for images of {side} px"
    attempt: Selection | None = selection
    while attempt is not None:
        selection = attempt
        try:
            with report_out_of_memory(advice):
                plan = selection.plan(settings.minutes, settings.steps)
                log.info("%s", format_plan(plan, *selection.forecast()))
                model = selection.run()
        except TooLargeError:
            pass  # the tensors of the failed pass are freed after this block
        else:
            model.baselines = compute_small_baselines(folder, selection.task, short_side=side)
            return model.to("cpu")
        attempt = _with_smaller_steps(selection)
    log.info("not enough memory: looking for a size that fits")
    if fits := selection.largest_side():
        raise InputError(f"{advice}: --short-side {fits} fits")
    raise InputError(f"{advice}: it takes a machine with more")


def _with_smaller_steps(selection: Selection) -> Selection | None:
    """Return a selection whose training steps need less memory.

    None if that cannot help: the images alone do not fit, or no step can be made smaller.
    """
    smaller = [candidate.smaller() for candidate in selection.candidates]
    if not (selection.is_encoded and any(smaller)):
        return None
    give_back_memory()
    kept = [new or old for new, old in zip(smaller, selection.candidates, strict=True)]
    descriptions = []
    for one in kept:
        recomputes = ", activations recomputed" if one.options.get(CHECKPOINTING) else ""
        descriptions.append(f"{one.name} {one.settings.batch_size} image(s) a step{recomputes}")
    log.info("not enough memory, trying again with smaller steps: %s", "; ".join(descriptions))
    return replace(selection, candidates=kept)


def format_plan(plan: Mapping[str, int], trainings: int, seconds: float | None) -> str:
    """Describe the planned trainings and their cost in one line."""
    steps = ", ".join(f"{name} {count} steps each" for name, count in plan.items())
    count = "1 training" if trainings == 1 else f"{trainings} trainings"
    if seconds is None:
        return f"{count}: {steps}"
    cost = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f"{count}, about {cost}: {steps}"


def _read_validation(
    validation: tuple[str | Path, str | Path] | None, form: LabelFormat, folder: LabelledFolder
) -> LabelledFolder | None:
    """Return the validation images, none of which may be a training image."""
    if validation is None:
        return None
    images, labels = map(Path, validation)
    others = read_labelled_folder(images, labels, form, like=folder)
    ids = {sample.id for sample in folder.samples}
    common = sum(sample.id in ids for sample in others.samples)
    if common:
        raise InputError(
            f"{images}: {common} of the {len(others.samples)} validation images are also among the "
            "training images: take them out of one folder"
        )
    return others


def _digest(task: AbstractTask, samples: Sequence[Sample], label: str) -> str:
    """Return a hash of the labels and of the task."""
    parts = list(task.state_dict().values())
    parts += [part for s in samples for part in (s.labels[label], s.valid[label])]
    parts += [part for s in samples if s.boxes for part in (s.boxes.class_ids, s.boxes.edges)]
    digest = hashlib.sha256(json.dumps(repr(task._arguments), default=str).encode())
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
