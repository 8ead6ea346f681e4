"""A unit of the few-shot benchmark: one method, one task, one set of training images."""

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import diffsight
from diffsight.atomic import replacing
from diffsight.backbones import BackboneSource
from diffsight.benchmark.measures import AbstractMeasure
from diffsight.benchmark.methods import BenchmarkMethod, Episode, FittedMethod, Settings
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask
from diffsight.datasets.base import Sample
from diffsight.errors import InputError, TooLargeError
from diffsight.formats.text import read_object, reading
from diffsight.hub.artifact import fingerprint
from diffsight.inference.evaluate import First
from diffsight.inference.shared_latents import SharedLatents
from diffsight.ops.groups import neighbours
from diffsight.ops.memory import give_back_memory, memory_for
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.rng import restore_rng, rng_state
from diffsight.training.stream import seed_of
from diffsight.types import Target

DAMAGED = "damaged ({reason}): delete it, so that the unit runs again"
LONG_BATCH_S = 10.0  # a second measurement is not worth waiting for
FORMAT = 3  # of a unit's file; another one makes other files of the same options


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
        method = self.method.replace("/", "__").replace(":", "+")  # of a method spec
        folder = out / self.task / method / f"shots{shots}"
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
        return _hash(*parts, settings.curve_every)


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
    result = read_unit(path, {"key"})
    if result["key"] != key:
        raise InputError(
            f"{path}: made with other options, data or base: give those again, or another --out"
        )
    return result


def read_unit(path: Path, keys: Set[str]) -> dict[str, Any]:
    """Return the contents of a unit's file, which has these keys.

    Raises:
        InputError: if the file is damaged.
    """
    with reading(path, DAMAGED):
        unit = read_object(path)
        if missing := sorted(keys - unit.keys()):
            raise ValueError(f"no {missing[0]} in it")
        return unit


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
    episode = _episode(unit, source, pretrained, settings)
    begin = time.monotonic()
    fitted = method.fit(episode)
    fit_seconds = time.monotonic() - begin - fitted.curve_seconds
    measure, per_image = _score(fitted, source, episode.spec, episode.task)
    measures = measure.compute()
    curve = {"curve": fitted.curve} if fitted.curve else {}
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
        "training_images": [sample.id for sample in episode.samples],
        "facts": fitted.facts,
        **curve,
        "fit_seconds": round(fit_seconds, 2),
        "seconds": round(time.monotonic() - begin, 2),
    }


def scoring_seconds(
    unit: Unit,
    method: BenchmarkMethod,
    source: BenchmarkSource,
    pretrained: BackboneSource,
    settings: Settings,
) -> float:
    """Return the estimated seconds of scoring a test image, measured on one batch.

    The weights of the method are random. Where a batch takes long, so does encoding its images,
    which happens once for all methods and repeats.

    Raises:
        InputError: if the training images cannot be learned from.
    """
    state = rng_state()
    episode = _episode(unit, source, pretrained, replace(settings, latents=SharedLatents()))
    seconds = 0.0
    if (untrained := method.untrained(episode)) is not None:
        count = min(len(episode.spec.test), untrained.batch_size)
        spec = replace(episode.spec, test=First(episode.spec.test, count))
        for _ in range(2):  # what is computed once is not in the second
            begin = time.monotonic()
            _score(untrained, source, spec, episode.task)
            seconds = (time.monotonic() - begin) / count
            if seconds * count > LONG_BATCH_S:
                break
    restore_rng(state)
    return seconds


def _episode(
    unit: Unit, source: BenchmarkSource, pretrained: BackboneSource, settings: Settings
) -> Episode:
    """Return the training of a unit."""
    spec = source.tasks[unit.task]
    samples = draw(source, spec, settings.shots, settings.seed, unit.repeat)
    task = spec.fitted(samples)

    def score(fitted: FittedMethod) -> float:
        return _score(fitted, source, spec, task)[0].compute()[spec.measure(task).name]

    return Episode(
        spec=spec,
        samples=samples,
        task=task,
        source=pretrained,
        short_side=settings.short_side or pretrained.short_side_px,
        seed=seed_of(settings.seed, unit.repeat),
        repeat=unit.repeat,
        settings=settings,
        score=score,
    )


def _score(
    fitted: FittedMethod, source: BenchmarkSource, spec: BenchmarkTask, task: AbstractTask
) -> tuple[AbstractMeasure, dict[str, float]]:
    """Return the measure of all test images, and the score of every one."""
    measure = spec.measure(task)
    per_image: dict[str, float] = {}
    samples = (source.read(spec.test, index) for index in range(len(spec.test)))
    readable = (prompted(sample, spec) for sample in samples if sample is not None)
    for batch in neighbours(readable, fitted.batch_size, lambda sample: sample.image.shape):
        for sample, output in zip(batch, _predicted(fitted, batch), strict=True):
            label = spec.task.label
            target = Target(sample.labels[label][None], sample.valid[label][None])
            per_image[sample.id] = measure.update(output, target)
    return measure, per_image


def _predicted(fitted: FittedMethod, samples: Sequence[Sample]) -> Sequence[Output]:
    """Return the outputs for images of one size; halves of a batch that memory does not hold."""
    if len(samples) == 1:
        return fitted.predict(samples)
    try:
        with memory_for("not enough memory for the batch"):
            return fitted.predict(samples)
    except TooLargeError:
        give_back_memory()
    half = len(samples) // 2
    return [*_predicted(fitted, samples[:half]), *_predicted(fitted, samples[half:])]


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
