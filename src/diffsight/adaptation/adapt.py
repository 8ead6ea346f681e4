"""``adapt``: from a folder of images and labels to a task file."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

import diffsight
from diffsight.adaptation.selection import METHODS, Adaptation, MethodName, Progress
from diffsight.backbones import ConceptRequest
from diffsight.codecs.scalar import Spacing
from diffsight.datasets.labelled_folder import Example, Support, read_support
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.hub.task_file import FORMAT, Base, Task
from diffsight.inference.pipeline import usable_device
from diffsight.ops.memory import TooLargeError, keep_freed_memory, memory_for
from diffsight.ops.resize import resized_label, working_hw
from diffsight.tasks.dense import AbstractDense
from diffsight.training.loop import Where, check_learning, check_whole, dense_task
from diffsight.training.state import AdaptState

log = logging.getLogger(__name__)


def adapt(
    images: str | Path,
    labels: str | Path,
    *,
    kind: str,
    unit: str | None = None,
    classes: Sequence[str] = (),
    invalid: int | float | None = None,
    shots: int | None = None,
    backbone: str | Path | Base = "tiny",
    method: Literal["auto", "concepts", "features"] = "auto",
    minutes: float = 5.0,
    steps: int | None = None,
    validation: tuple[str | Path, str | Path] | None = None,
    bins: int | None = None,
    spacing: Spacing | None = None,
    alpha: float = 1.0,
    short_side: int | None = None,
    codebook: int | None = None,
    clip: str | Path | None = None,
    maps: Mapping[str, Any] | None = None,
    mirror: bool | None = None,
    seed: int = 0,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    state: Path | None = None,
    resume: bool = False,
    announce: Callable[[Support, AbstractDense, Base], None] | None = None,
    advance: Callable[[Progress], None] = lambda progress: None,
) -> Task:
    """Learn a dense task from a few labelled images.

    Args:
        images: folder of images.
        labels: folder of labels with the same names.
        kind: ``segmentation``, ``depth``, ``scalar``, ``normals`` or ``vector``.
        unit: of one stored count, see ``LabelFormat``.
        classes: names of the class ids from 0 on.
        invalid: count that means "no label".
        shots: use only so many images.
        backbone: ``tiny``, a diffusers folder, a hub id, or one that is loaded.
        method: ``concepts`` is the paper's, ``features`` a light head on the frozen features,
            ``auto`` the better of the two on held-out images.
        minutes: what it may take, roughly; ``steps`` says it exactly.
        steps: of every training; the same seed and steps give the same task.
        validation: folders of images and labels for the held-out figures; default: folds of the
            support, by content.
        bins: classes for numbers.
        spacing: of the bins of depth or a scalar: ``log`` (default for depth), ``log1p`` (default
            for a scalar), ``linear`` or ``quantile``.
        alpha: weight of the squared error beside the cross-entropy.
        short_side: pixels of the shorter side at which the model works; default: the backbone's.
        codebook: tables of the label codebook (concepts); 0 is a fixed mapping. Default: ten where
            a CLIP vision model can mix them, else one.
        clip: CLIP vision model for a codebook of several tables; default: the backbone's own.
        maps: options of ``ConceptRequest``.
        mirror: learn from mirrored images too; default: except for ``vector``, whose numbers may
            point to a side.
        seed: of everything random.
        device: where to run; the task is on the CPU in the end.
        autocast: ``torch.bfloat16`` for mixed precision; default: 32 bit.
        state: file that keeps where the adaptation stands; to be deleted when the task is saved.
        resume: go on where ``state`` stands; with the same seed and steps the result is that of an
            adaptation without interruption.
        announce: called with what was read, before anything is computed.
        advance: called after every step.

    Returns:
        The task; ``task.about["report"]`` holds the held-out figures. Ctrl-C ends the training
        early: what is learned so far is returned.

    Raises:
        InputError: one line about what cannot be used, with the repair.
    """
    _check_options(kind, method, classes, bins, spacing, alpha)
    check_learning(minutes, steps, short_side, seed)
    where = Where(torch.device(usable_device(device)), autocast)
    keep_freed_memory()
    form = LabelFormat(kind, unit, invalid)
    support = read_support(Path(images), Path(labels), form, classes=classes, shots=shots)
    base = backbone if isinstance(backbone, Base) else Base.load(backbone)
    try:
        task = dense_task(support, bins=bins, spacing=spacing, alpha=alpha)
    except InputError as error:
        raise InputError(f"{labels}: {error}") from None
    others = None
    if validation is not None:
        there, answers = map(Path, validation)
        others = read_support(there, answers, form, like=support)
        _check_held_out(there, others, support)
    side = short_side or base.short_side_px
    examples = [*support.examples, *(others.examples if others else ())]
    with memory_for(f"not enough memory for images of {side} px: choose a smaller --short-side"):
        _check_labels(examples, side)
    if announce:
        announce(support, task, base)
    if mirror is None:
        mirror = kind != "vector"  # whose numbers may point to a side
    facts = describe(support, task, base, alpha=alpha, short_side=side, seed=seed)
    facts["mirror"] = mirror
    options = method_options(base, codebook=codebook, clip=clip, maps=maps or {})
    single = codebook is None and options["concepts"]["codebook"] == 1
    if single and method != "features" and kind != "segmentation":
        log.info("no CLIP vision model beside %s: a codebook of 1 table is learned", base.source)
    asked = [example.id for example in others.examples] if others else []
    decisive = {**facts, "options": options, "asked": asked, "method": method, "steps": steps}
    decisive |= {"labels": _digest(task, support, others)}
    decisive |= {"device": where.device.type, "autocast": str(autocast)}
    job = Adaptation(
        support=support,
        others=others,
        base=base,
        task=task,
        about=facts,
        options=options,
        seed=seed,
        advance=advance,
        state=AdaptState.open(state, decisive, resume),
        mirror=mirror,
        where=where,
    )
    wanted: tuple[MethodName, ...] = METHODS if method == "auto" else (method,)
    advice = f"{device} has not enough memory for images of {side} px"
    try:
        with memory_for(advice):
            plan = job.plan(wanted, minutes, steps)
            log.info("%s", _told(plan, *job.forecast(plan)))
            found = job.run(plan)
    except TooLargeError:
        pass  # what the failed pass holds is freed behind this block
    else:
        found.model.to("cpu")
        return found
    log.info("not enough memory: looking for a size that fits")
    if fits := job.largest_side(wanted):
        try:
            _check_labels(examples, fits)
        except InputError as error:
            raise InputError(f"{advice}: --short-side {fits} fits, but {error}") from None
        raise InputError(f"{advice}: --short-side {fits} fits")
    raise InputError(f"{advice}: it takes a machine with more")


def _told(plan: Mapping[str, int], trainings: int, seconds: float | None) -> str:
    """What will be done, in a line."""
    steps = ", ".join(f"{name} {count} steps each" for name, count in plan.items())
    count = "1 training" if trainings == 1 else f"{trainings} trainings"
    if seconds is None:
        return f"{count}: {steps}"
    cost = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f"{count}, about {cost}: {steps}"


def _check_options(
    kind: str,
    method: str,
    classes: Sequence[str],
    bins: int | None,
    spacing: str | None,
    alpha: float,
) -> None:
    """They mean something, and have an effect."""
    if method not in ("auto", *METHODS):
        raise InputError(f"unknown method {method!r}: choose auto, {', '.join(METHODS)}")
    if kind == "segmentation" and bins is not None:
        raise InputError("bins are for numbers, segmentation has classes: leave them out")
    if kind != "segmentation" and classes:
        raise InputError(f"labels of kind {kind} have no classes: leave their names out")
    if spacing is not None and kind not in ("depth", "scalar"):
        raise InputError(f"labels of kind {kind} have no bins: leave their spacing out")
    if spacing not in (None, *get_args(Spacing)):
        raise InputError(f"unknown spacing {spacing!r}: choose {', '.join(get_args(Spacing))}")
    if not alpha >= 0:
        raise InputError(f"alpha {alpha}: give 0 or more")
    check_whole("bins", bins, 2)


def _check_held_out(folder: Path, others: Support, support: Support) -> None:
    """No image is scored that is learned from."""
    learned = {example.id for example in support.examples}
    shared = sum(example.id in learned for example in others.examples)
    if shared:
        raise InputError(
            f"{folder}: {shared} of the {len(others.examples)} validation images are among those "
            "learned from: take them out of one folder"
        )


def _check_labels(examples: Sequence[Example], short_side: int) -> None:
    """Images keep labels at the working size."""
    bare = 0
    for example in examples:
        height, width = example.valid.shape
        hw = working_hw(height, width, short_side)
        bare += not bool(resized_label(example.valid[None], hw).any())
    if bare:
        raise InputError(
            f"{bare} of {len(examples)} labelled images have no labelled pixel left at a short "
            f"side of {short_side} px: choose a larger --short-side, or leave them out"
        )


def _digest(task: AbstractDense, *supports: Support | None) -> str:
    """A hash of what the labels are and what they mean."""
    _, tensors = task.codec.state()
    parts = [*tensors.values(), *(() if task.spread is None else (task.spread,))]
    examples = [example for support in supports if support for example in support.examples]
    parts += [part for example in examples for part in (example.value, example.valid)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(
    support: Support,
    task: AbstractDense,
    base: Base,
    *,
    alpha: float,
    short_side: int,
    seed: int,
) -> dict[str, Any]:
    """What a task file says before anything is learned, but for the method."""
    settings, _ = task.codec.state()
    about: dict[str, Any] = {
        "format": FORMAT,
        "diffsight_version": diffsight.__version__,
        "kind": support.form.kind,
        "unit": support.form.value_unit,
        "codec": {"kind": task.codec.kind, "settings": settings},
        "alpha": alpha,
        "base": {
            "source": base.source,
            "revision": base.revision,
            "fingerprint": base.fingerprint,
        },
        "short_side": short_side,
        "seed": seed,
        "support": [example.id for example in support.examples],
    }
    if support.ids:
        about["classes"] = {"ids": support.ids, "names": support.names, "colours": support.colours}
    return json.loads(json.dumps(about))


def method_options(
    base: Base, *, codebook: int | None, clip: str | Path | None, maps: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The options of every method, by its name.

    Raises:
        InputError: for a codebook of less than no table, or of several that nothing mixes, or maps
            that there are not.
    """
    if codebook is not None and codebook < 0:
        raise InputError(f"a codebook of {codebook} tables: give 0 (fixed values) or more")
    if clip is not None and Path(clip).is_dir():
        clip = Path(clip).resolve()
    source = clip or (base.source if (base.folder / "image_encoder").is_dir() else None)
    if codebook is None:
        codebook = 10 if source else 1
    if codebook > 1 and source is None:
        raise InputError(
            f"a codebook of {codebook} tables is mixed by a CLIP vision model, and {base.source} "
            "has none: give one (--clip), or choose 1 table"
        )
    if unknown := maps.keys() - {f.name for f in fields(ConceptRequest)}:
        raise InputError(f"maps have no option {', '.join(sorted(unknown))}: see ConceptRequest")
    ConceptRequest(**maps)
    concepts = {"codebook": codebook, "clip": source and str(source), "maps": dict(maps)}
    return {"concepts": concepts, "features": {"place_share": 0.0, "constant_share": 0.0}}
