"""A unit of the few-shot benchmark: one entrant learns one task from one support."""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

import diffsight
from diffsight.benchmark.entrant import AbstractEntrant, Lesson
from diffsight.codecs import ScalarBins, VectorWords
from diffsight.datasets.files import replacing
from diffsight.datasets.labelled_folder import COLOURS, Example, Support
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.source import AbstractSource, Labelled, SourceTask
from diffsight.errors import InputError
from diffsight.hub.task_file import Base
from diffsight.metrics import AngleErrors, BinaryIoU, ClassIoU, DepthMetrics, ValueErrors
from diffsight.metrics.depth import NAMES, per_image
from diffsight.ops.resize import resized_image
from diffsight.tasks.dense import AbstractDense
from diffsight.tasks.values import Vectors
from diffsight.training.loop import CPU, Where, check_learning, check_whole, dense_task
from diffsight.training.stream import seed_of

FORMAT = 2  # of a unit's file; another one makes other files of the same options
LEAST_DEPTH_M = 1e-3
LEAST_SPREAD = 0.05  # of a channel's labels, as a share of the words' own


@dataclass(frozen=True)
class Settings:
    """What is the same for all units of a benchmark.

    Attributes:
        shots: images of a support.
        minutes: that an entrant may learn.
        steps: instead of ``minutes``, exactly.
        seed: of supports and of everything random.
        short_side: at which methods work, in pixels; None is the base's own.
        clip: CLIP vision model; None is the base's own.
        where: to run.
    """

    shots: int = 10
    minutes: float = 1.5
    steps: int | None = None
    seed: int = 0
    short_side: int | None = None
    clip: str | None = None
    where: Where = CPU

    def __post_init__(self) -> None:
        """Refuse what is no learning."""
        check_whole("shots", self.shots, 1)
        check_learning(self.minutes, self.steps, self.short_side, self.seed)


@dataclass(frozen=True)
class Unit:
    """One cell of the table, once.

    Attributes:
        task: its name.
        method: the entrant's name.
        repeat: number of the support.
    """

    task: str
    method: str
    repeat: int

    def path(self, out: Path, shots: int) -> Path:
        """Its file."""
        place = out / self.task / self.method / f"shots{shots}"
        return place / f"rep{self.repeat:03d}.json"

    def key(
        self, entrant: AbstractEntrant, source: AbstractSource, base: Base, settings: Settings
    ) -> str:
        """A hash of all that decides its result.

        Raises:
            InputError: if the entrant lacks something that it needs.
        """
        read = entrant.content(source.tasks[self.task], base, settings.clip)
        alike, where = conditions(source.name, base, settings), settings.where
        return _hash(repr(self), repr(entrant), read, alike, where.device.type, str(where.autocast))


def conditions(source: str, base: Base, settings: Settings) -> str:
    """A hash of what units that are compared have in common, on whatever device they were made: a
    release of diffsight may learn otherwise than the one before.
    """
    length = settings.minutes if settings.steps is None else settings.steps
    told = (settings.steps is None, length, settings.short_side, settings.seed)
    return _hash(FORMAT, diffsight.__version__, source, base.fingerprint, *told)


def _hash(*told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def stored(path: Path, key: str) -> dict[str, Any] | None:
    """A finished unit, or None if there is none.

    Raises:
        InputError: if the file is damaged, or of other options.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        theirs = found["key"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged: delete it, so that the unit runs again") from None
    if theirs != key:
        raise InputError(
            f"{path}: made with other options, data or base: give those again, or another --out"
        )
    return found


def run(
    unit: Unit,
    entrant: AbstractEntrant,
    source: AbstractSource,
    base: Base,
    settings: Settings,
) -> dict[str, Any]:
    """Learn and score.

    Raises:
        InputError: if the support cannot be learned from.
    """
    spec = source.tasks[unit.task]
    support, ids = draw(source, spec, settings.shots, settings.seed, unit.repeat)
    lesson = Lesson(
        spec=spec,
        support=support,
        task=task_of(spec, support),
        base=base,
        short_side=settings.short_side or base.short_side_px,
        clip=settings.clip,
        minutes=settings.minutes,
        steps=settings.steps,
        seed=seed_of(settings.seed, unit.repeat),
        where=settings.where,
    )
    begin = time.monotonic()
    learned = entrant.learn(lesson)
    took = time.monotonic() - begin
    metric, rows = metric_of(spec), {}
    for id in source.queries(unit.task):
        query = source.read(unit.task, id)
        if query is None:
            continue
        found, truth, valid = scored(spec, learned.answer(query), query)
        metric.update(found, truth, valid)
        rows[id] = _primary(metric, found, truth, valid)
    measures = {name: float(value) for name, value in metric.compute().items()}
    return {
        "task": unit.task,
        "method": unit.method,
        "repeat": unit.repeat,
        "shots": settings.shots,
        "source": source.name,
        "conditions": conditions(source.name, base, settings),
        "measure": spec.measure,
        "higher_is_better": spec.higher_is_better,
        "score": measures[spec.measure],
        "measures": measures,
        "per_image": rows,
        "support": ids,
        "facts": learned.facts,
        "learn_seconds": round(took, 2),
        "seconds": round(time.monotonic() - begin, 2),
    }


def save(path: Path, key: str, found: Mapping[str, Any]) -> None:
    """Write a unit's file, whole or not at all.

    Raises:
        InputError: if a measure is no number: then nothing is written.
    """
    for name, value in found["measures"].items():
        if not math.isfinite(value):
            raise InputError(f"{path}: {name} is {value}: {found['method']} gave no numbers")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"key": key, **found}, indent=1) + "\n", encoding="utf-8")


def draw(
    source: AbstractSource, spec: SourceTask, shots: int, seed: int, repeat: int
) -> tuple[Support, list[str]]:
    """The support of a repeat, the same for every method, and its ids; damaged images are passed.

    Raises:
        InputError: if there are not enough images.
    """
    pool = list(source.pool(spec.name))
    if len(pool) < shots:
        raise InputError(
            f"{source.name}: {len(pool)} images of {spec.name} for {shots} shots: ask for fewer"
        )
    generator = torch.Generator().manual_seed(seed_of(seed, repeat))
    found: list[Labelled] = []
    for place in torch.randperm(len(pool), generator=generator).tolist():
        if len(found) == shots:
            break
        example = source.read(spec.name, pool[place])
        if example is not None and bool(example.valid.any()):
            found.append(example)
    if len(found) < shots:
        raise InputError(
            f"{source.name}: {len(found)} usable images of {spec.name} for {shots} shots: ask for "
            "fewer"
        )
    form = LabelFormat(spec.kind, spec.unit or None if spec.kind == "scalar" else None)
    examples = tuple(Example(e.id, e.image, e.value, e.valid) for e in found)
    ids = tuple(range(len(spec.classes)))
    colours = tuple(COLOURS[i % len(COLOURS)] for i in ids)
    return Support(form, examples, ids, spec.classes, colours), [e.id for e in found]


def task_of(spec: SourceTask, support: Support) -> AbstractDense:
    """What the labels mean, with the paper's number of classes or as many as there are values."""
    if spec.kind == "segmentation":
        return dense_task(support)
    values = support.values()
    bins = min(spec.bins, len(values.unique(dim=0)))
    if spec.curve is None:
        return dense_task(support, bins=bins)
    low, high = spec.limits
    steps = torch.linspace(low, high, 2 * spec.bins + 1)
    centres = ScalarBins(steps[::2], steps[1::2]).centres[:, 0]
    words = spec.curve(centres)
    codec = VectorWords(words, torch.zeros(0, 1 + words.shape[1], dtype=torch.long), False)
    # the words span the whole range, whatever the support holds of it
    spread = torch.maximum(values.std(dim=0), LEAST_SPREAD * words.std(dim=0))
    return Vectors(codec, spread=spread.clamp(min=1e-6))


def metric_of(spec: SourceTask) -> Metric:
    """An empty one."""
    if spec.scoring == "angles":
        return AngleErrors("merr_vtm" if spec.measure == "merr_vtm" else "merr_true")
    if spec.scoring == "classes":
        return ClassIoU(len(spec.classes))
    if spec.scoring == "values":
        return ValueErrors("vtm_mae" if spec.measure == "vtm_mae" else "rmse_valid")
    return DepthMetrics() if spec.scoring == "depth" else BinaryIoU()


def scored(spec: SourceTask, answer: Tensor, query: Labelled) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth and where they are compared, as the metric takes them."""
    truth, valid = query.scored
    found = resized_image(answer[None], (truth.shape[-2], truth.shape[-1]))
    if spec.clip is not None:
        found = found.clamp(*spec.clip)
    if spec.scoring == "angles":
        found = functional.normalize(found, dim=1)
    if spec.scoring == "classes":
        found = found.argmax(dim=1, keepdim=True)
    if spec.scoring == "binary":
        found = found[:, 1:]
    if spec.scoring == "depth":
        return found[:, 0].clamp(min=LEAST_DEPTH_M), truth, valid[None]
    return found, truth[None], valid[None]


def _primary(metric: Metric, found: Tensor, truth: Tensor, valid: Tensor) -> float:
    if isinstance(metric, DepthMetrics):
        return float(per_image(found, truth, valid)[0, NAMES.index("rmse")])
    return float(metric.per_image(found, truth, valid)[0])  # type: ignore[operator]


def order(tasks: Sequence[str], methods: Sequence[str], repeats: int) -> list[Unit]:
    """All units; every method meets a support before the next is drawn."""
    return [Unit(t, m, r) for r in range(repeats) for t in tasks for m in methods]
