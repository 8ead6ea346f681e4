"""A unit of the few-shot benchmark: one method, one task, one set of training images."""

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import diffsight
from diffsight.adaptation.options import check_whole, validate_fit_options
from diffsight.backbones import BackboneSource
from diffsight.benchmark.methods import BenchmarkMethod, Episode
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask
from diffsight.datasets.base import Sample
from diffsight.datasets.files import replacing
from diffsight.errors import InputError
from diffsight.formats.text import read_object, reading
from diffsight.hub.artifact import fingerprint
from diffsight.training.loop import CPU, Runtime
from diffsight.training.stream import seed_of
from diffsight.types import Target

FORMAT = 3  # of a unit's file; another one makes other files of the same options


@dataclass(frozen=True)
class Settings:
    """What is the same for all units of a benchmark.

    Attributes:
        shots: training images.
        minutes: that a training may take.
        steps: of a training, instead of ``minutes``.
        seed: of the choice of training images and of everything random.
        short_side: pixels at which methods work; None is that of the pretrained model.
        clip: CLIP vision model; None is that of the pretrained model.
        runtime: device and precision.
    """

    shots: int = 10
    minutes: float = 1.5
    steps: int | None = None
    seed: int = 0
    short_side: int | None = None
    clip: str | None = None
    runtime: Runtime = CPU

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        check_whole("shots", self.shots, 1)
        validate_fit_options(self.minutes, self.steps, self.short_side, self.seed)


@dataclass(frozen=True)
class Unit:
    """One cell of the table, once.

    Attributes:
        task: its name.
        method: its name.
        repeat: number of the draw of training images.
    """

    task: str
    method: str
    repeat: int

    def path(self, out: Path, shots: int) -> Path:
        """Return the path of the unit's file."""
        folder = out / self.task / self.method / f"shots{shots}"
        return folder / f"rep{self.repeat:03d}.json"

    def key(
        self,
        method: BenchmarkMethod,
        source: BenchmarkSource,
        pretrained: BackboneSource,
        settings: Settings,
    ) -> str:
        """Return a hash of everything that decides the result.

        Raises:
            InputError: if the method lacks something that it needs.
        """
        files = method.dependency_hash(source.tasks[self.task], pretrained, settings.clip)
        shared, runtime = conditions(source.name, pretrained, settings), settings.runtime
        parts = (repr(self), repr(method), files, shared, runtime.device.type, str(runtime.dtype))
        return _hash(*parts)


def conditions(source: str, pretrained: BackboneSource, settings: Settings) -> str:
    """Return a hash of what units that are compared have in common, on whatever device they ran.

    A release of diffsight may train otherwise than the one before.
    """
    length = settings.minutes if settings.steps is None else settings.steps
    options = (settings.steps is None, length, settings.short_side, settings.seed)
    return _hash(FORMAT, diffsight.__version__, source, _fingerprint(pretrained), *options)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@functools.cache
def _fingerprint(pretrained: BackboneSource) -> str:
    network = pretrained.diffusion if pretrained.is_diffusion else pretrained.vision
    return fingerprint(network.state_dict().items())


def stored(path: Path, key: str) -> dict[str, Any] | None:
    """Return a finished unit, or None if there is none.

    Raises:
        InputError: if the file is damaged, or of other options.
    """
    if not path.is_file():
        return None
    with reading(path, "damaged ({reason}): delete it, so that the unit runs again"):
        result = read_object(path)
        its_key = result["key"]
    if its_key != key:
        raise InputError(
            f"{path}: made with other options, data or base: give those again, or another --out"
        )
    return result


def run(
    unit: Unit,
    method: BenchmarkMethod,
    source: BenchmarkSource,
    pretrained: BackboneSource,
    settings: Settings,
) -> dict[str, Any]:
    """Return the result of a unit: train, predict and score.

    Raises:
        InputError: if the training images cannot be learned from.
    """
    spec = source.tasks[unit.task]
    samples = draw(source, spec, settings.shots, settings.seed, unit.repeat)
    task = spec.fitted(samples)
    episode = Episode(
        spec=spec,
        samples=samples,
        task=task,
        source=pretrained,
        short_side=settings.short_side or pretrained.short_side_px,
        clip=settings.clip,
        minutes=settings.minutes,
        steps=settings.steps,
        seed=seed_of(settings.seed, unit.repeat),
        runtime=settings.runtime,
    )
    begin = time.monotonic()
    fitted = method.fit(episode)
    fit_seconds = time.monotonic() - begin
    measure = spec.measure(task)
    per_image: dict[str, float] = {}
    for index in range(len(spec.test)):
        if (sample := source.read(spec.test, index)) is None:
            continue
        label = spec.task.label
        target = Target(sample.labels[label][None], sample.valid[label][None])
        output = fitted.predict(prompted(sample, spec))
        per_image[sample.id] = measure.update(output, target)
    measures = measure.compute()
    return {
        **vars(unit),
        "shots": settings.shots,
        "source": source.name,
        "conditions": conditions(source.name, pretrained, settings),
        "measure": measure.name,
        "higher_is_better": measure.higher_is_better,
        "score": measures[measure.name],
        "measures": measures,
        "per_image": per_image,
        "training_images": [sample.id for sample in samples],
        "facts": fitted.facts,
        "fit_seconds": round(fit_seconds, 2),
        "seconds": round(time.monotonic() - begin, 2),
    }


def save(path: Path, key: str, result: Mapping[str, Any]) -> None:
    """Write a unit's file, whole or not at all.

    Raises:
        InputError: if a measure is not finite: then nothing is written.
    """
    for name, value in result["measures"].items():
        if not math.isfinite(value):
            raise InputError(f"{path}: {name} is {value}: {result['method']} gave no numbers")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"key": key, **result}, indent=1) + "\n", encoding="utf-8")


def draw(
    source: BenchmarkSource, spec: BenchmarkTask, shots: int, seed: int, repeat: int
) -> tuple[Sample, ...]:
    """Return the training images of a repeat, the same for every method; damaged ones are skipped.

    Raises:
        InputError: if there are not enough images.
    """
    count = len(spec.train)
    if count < shots:
        raise InputError(
            f"{source.name}: {count} images of {spec.name} for {shots} shots: ask for fewer"
        )
    generator = torch.Generator().manual_seed(seed_of(seed, repeat))
    samples: list[Sample] = []
    for index in torch.randperm(count, generator=generator).tolist():
        if len(samples) == shots:
            break
        sample = source.read(spec.train, index)
        if sample is not None and bool(sample.valid[spec.task.label].any()):
            samples.append(prompted(sample, spec))
    if len(samples) < shots:
        raise InputError(
            f"{source.name}: {len(samples)} usable images of {spec.name} for {shots} shots: ask "
            "for fewer"
        )
    return tuple(samples)


def prompted(sample: Sample, spec: BenchmarkTask) -> Sample:
    """Return the sample with its prompt only where the task asks a question.

    Otherwise methods that read text would know more than the others.
    """
    return sample if spec.task.requires_prompt else replace(sample, prompt=None, sentences=())


def order(tasks: Sequence[str], methods: Sequence[str], repeats: int) -> list[Unit]:
    """Return all units; every method runs on some training images before others are drawn."""
    return [Unit(t, m, r) for r in range(repeats) for t in tasks for m in methods]
