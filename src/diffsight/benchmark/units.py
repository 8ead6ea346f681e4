"""A unit of the few-shot benchmark: one method on one task with one set of training images."""

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
from diffsight.inference.evaluate import FirstSamples
from diffsight.inference.shared_latents import SharedLatents
from diffsight.ops.groups import group_consecutive
from diffsight.ops.memory import give_back_memory, report_out_of_memory
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.rng import restore_rng, rng_state
from diffsight.training.stream import seed_of
from diffsight.types import Target

DAMAGED = "damaged ({reason}): delete it, so that the unit runs again"
LONG_BATCH_S = 10.0  # a batch that takes longer is not measured a second time
FORMAT = 3  # format of a unit's file; files of another format are refused like other options


@dataclass(frozen=True)
class Unit:
    """One method on one task in one repeat.

    Attributes:
        task: name of the task.
        method: name of the method.
        repeat: number of the repeat, which decides the training images.
    """

    task: str
    method: str
    repeat: int

    def path(self, out: Path, shots: int) -> Path:
        """Return the path of the unit's file, in a folder for the number of shots."""
        method = self.method.replace("/", "__").replace(":", "+")  # options follow a colon
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
            InputError: if a file that the method needs is missing.
        """
        files = method.dependency_hash(source.tasks[self.task], pretrained, settings.clip)
        shared, runtime = conditions(source.name, pretrained, settings), settings.runtime
        parts = (repr(self), repr(method), files, shared, runtime.device.type, str(runtime.dtype))
        return _hash(*parts, settings.curve_every)


def conditions(source: str, pretrained: BackboneSource, settings: Settings) -> str:
    """Return a hash of the conditions that comparable units share; the device is not one of them.

    The version of diffsight is one, because another version may train differently.

    Args:
        source: name of the benchmark's source.
        pretrained: pretrained model.
        settings: settings of the benchmark.
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


def read_finished(path: Path, key: str) -> dict[str, Any] | None:
    """Return the result of a finished unit; None if the unit is not finished.

    Args:
        path: path of the unit's file.
        key: hash of everything that decides the result (``Unit.key``).

    Raises:
        InputError: if the file is damaged, or has another key.
    """
    if not path.is_file():
        return None
    result = read_unit(path, {"key"})
    if result["key"] != key:
        raise InputError(
            f"{path}: made with other options, data, backbone or version of diffsight: give those "
            "again, or another --out"
        )
    return result


def read_unit(path: Path, keys: Set[str]) -> dict[str, Any]:
    """Return the content of a unit's file, after checking that it has these keys.

    Raises:
        InputError: if the file is damaged, or a key is missing.
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
    """Train the method of a unit, predict and score, and return the result as plain data.

    Args:
        unit: unit to run.
        method: method of the unit.
        source: tasks and images.
        pretrained: pretrained model.
        settings: settings of the benchmark.

    Raises:
        InputError: if there are too few images, or the method cannot be trained on them.
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
    """Return the estimated seconds of scoring one test image, measured on one batch.

    The method has random weights. The second of two measurements counts, because encoding images
    happens once for all methods and repeats. If the first takes long, it counts.

    Args:
        unit: unit whose method is measured.
        method: method of the unit.
        source: tasks and images.
        pretrained: pretrained model.
        settings: settings of the benchmark.

    Raises:
        InputError: if there are too few images, or the method cannot be trained on them.
    """
    state = rng_state()
    episode = _episode(unit, source, pretrained, replace(settings, latents=SharedLatents()))
    seconds = 0.0
    if (untrained := method.untrained(episode)) is not None:
        count = min(len(episode.spec.test), untrained.batch_size)
        spec = replace(episode.spec, test=FirstSamples(episode.spec.test, count))
        for _ in range(2):  # the second measurement does not encode the images again
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
    """Return the data and settings of a unit's training."""
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
    """Return the measure over all test images, and the score of each by id."""
    measure = spec.measure(task)
    per_image: dict[str, float] = {}
    samples = (source.read(spec.test, index) for index in range(len(spec.test)))
    readable = (drop_unused_prompt(sample, spec) for sample in samples if sample is not None)
    for batch in group_consecutive(readable, fitted.batch_size, lambda sample: sample.image.shape):
        for sample, output in zip(batch, _predict_batch(fitted, batch), strict=True):
            label = spec.task.label
            target = Target(sample.labels[label][None], sample.valid[label][None])
            per_image[sample.id] = measure.update(output, target)
    return measure, per_image


def _predict_batch(fitted: FittedMethod, samples: Sequence[Sample]) -> Sequence[Output]:
    """Return the outputs for images of one size; a batch too large for memory is halved."""
    if len(samples) == 1:
        return fitted.predict(samples)
    try:
        with report_out_of_memory("not enough memory for the batch"):
            return fitted.predict(samples)
    except TooLargeError:
        give_back_memory()
    half = len(samples) // 2
    return [*_predict_batch(fitted, samples[:half]), *_predict_batch(fitted, samples[half:])]


def save(path: Path, key: str, result: Mapping[str, Any]) -> None:
    """Write a unit's file, completely or not at all.

    Args:
        path: path of the file.
        key: hash of everything that decides the result (``Unit.key``).
        result: result of ``run``.

    Raises:
        InputError: if a measure is not finite; then nothing is written.
    """
    for name, value in result["measures"].items():
        if not math.isfinite(value):
            raise InputError(f"{path}: {name} is {value}: {result['method']} predicts no numbers")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"key": key, **result}, indent=1) + "\n", encoding="utf-8")


def draw(
    source: BenchmarkSource, spec: BenchmarkTask, shots: int, seed: int, repeat: int
) -> tuple[Sample, ...]:
    """Return the training images of a repeat, which are the same for every method.

    Damaged images and images without a valid pixel are skipped.

    Args:
        source: tasks and images.
        spec: task whose training images are drawn.
        shots: number of images.
        seed: seed of the benchmark.
        repeat: number of the repeat.

    Raises:
        InputError: if there are not enough images.
    """
    count = len(spec.train)
    if count < shots:
        raise InputError(
            f"{source.name}: {count} images of {spec.name} for {shots} shots: use fewer shots"
        )
    generator = torch.Generator().manual_seed(seed_of(seed, repeat))
    samples: list[Sample] = []
    for index in torch.randperm(count, generator=generator).tolist():
        if len(samples) == shots:
            break
        sample = source.read(spec.train, index)
        if sample is not None and bool(sample.valid[spec.task.label].any()):
            samples.append(drop_unused_prompt(sample, spec))
    if len(samples) < shots:
        raise InputError(
            f"{source.name}: {len(samples)} usable images of {spec.name} for {shots} shots: use "
            "fewer shots"
        )
    return tuple(samples)


def drop_unused_prompt(sample: Sample, spec: BenchmarkTask) -> Sample:
    """Return the sample without its prompt, unless the task requires one.

    With a prompt, methods that read text would have more information than the others.
    """
    return sample if spec.task.requires_prompt else replace(sample, prompt=None, sentences=())
