"""Run the few-shot benchmark: tasks x methods x repeats, in units that are run once each."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffsight.backbones import BackboneSource
from diffsight.benchmark.methods import BenchmarkMethod
from diffsight.benchmark.source import BenchmarkSource
from diffsight.benchmark.units import Settings, Unit, read_finished, run, save, scoring_seconds
from diffsight.errors import InputError
from diffsight.ops.memory import keep_freed_memory
from diffsight.training.loop import require_memory

LONG_MEASUREMENT_S = 60.0  # longest time to measure the scoring of methods before the first unit


@dataclass(frozen=True)
class Forecast:
    """The work of a benchmark before its first unit.

    Attributes:
        units: number of units of this shard.
        done: number of them that are finished.
        training_seconds: seconds of training for the others; None if ``steps`` is given.
        scoring_seconds: estimated seconds of scoring the test images for the others.
    """

    units: int
    done: int
    training_seconds: float | None
    scoring_seconds: float


@dataclass(frozen=True)
class Progress:
    """The progress of a benchmark after a unit.

    Attributes:
        unit: unit that has just been finished.
        done: number of finished units of this shard.
        units: number of units of this shard.
        score: score of the unit.
        seconds_left: estimate from the units that this call has run.
    """

    unit: Unit
    done: int
    units: int
    score: float
    seconds_left: float


def benchmark(
    source: BenchmarkSource,
    *,
    tasks: Sequence[str],
    methods: Mapping[str, BenchmarkMethod],
    pretrained: BackboneSource,
    out: Path,
    repeats: int = 5,
    settings: Settings | None = None,
    shard: tuple[int, int] = (0, 1),
    announce: Callable[[Forecast], None] | None = None,
    advance: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Run the units that have no file yet, so that an interrupted benchmark continues.

    Args:
        source: tasks and images.
        tasks: names out of ``source.tasks``.
        methods: methods by name.
        pretrained: pretrained model.
        out: folder of the units: ``TASK/METHOD/shotsN/repNNN.json``.
        repeats: number of repeats; each has its own training images, the same for all methods.
        settings: settings of all units.
        shard: index and number of the shards into which the units are divided.
        announce: called before the first unit; the speed of scoring is measured for it.
        advance: called after every unit.

    Raises:
        InputError: for an unknown task, a method whose files are missing, training images that a
            method cannot be trained on, a unit with other options, or a score that is not finite.
    """
    keep_freed_memory()
    settings = settings or Settings()
    if repeats < 1:
        raise InputError(f"{repeats} repeats: give at least one")
    for name in tasks:
        if name not in source.tasks:
            raise InputError(
                f"{source.name} has no task {name!r}: choose from {', '.join(source.tasks)}"
            )
        if not len(source.tasks[name].test):
            raise InputError(
                f"{source.name}: no test images of {name}: leave this task out, or choose other "
                "test images"
            )
    require_memory(settings.shots, settings.short_side or 0, settings.runtime)
    mine = _list_units(source, tasks, methods, repeats, shard)
    keys = {u: u.key(methods[u.method], source, pretrained, settings) for u in mine}
    finished = [u for u in mine if read_finished(u.path(out, settings.shots), keys[u]) is not None]
    missing = [u for u in mine if u not in set(finished)]
    trained = [u for u in missing if methods[u.method].is_trained]
    if announce:
        scoring_s = _scoring_seconds(trained, methods, source, pretrained, settings)
        training_s = None if settings.steps is not None else 60 * settings.minutes * len(trained)
        announce(Forecast(len(mine), len(finished), training_s, scoring_s))
    spent: dict[str, list[float]] = {}  # by method, as methods differ by orders of magnitude
    for done, unit in enumerate(missing, start=1):
        begin = time.monotonic()
        result = run(unit, methods[unit.method], source, pretrained, settings)
        save(unit.path(out, settings.shots), keys[unit], result)
        spent.setdefault(unit.method, []).append(time.monotonic() - begin)
        left = seconds_left([u.method for u in missing[done:]], spent)
        advance(Progress(unit, len(finished) + done, len(mine), result["score"], left))


def _list_units(
    source: BenchmarkSource,
    tasks: Sequence[str],
    methods: Mapping[str, BenchmarkMethod],
    repeats: int,
    shard: tuple[int, int],
) -> list[Unit]:
    """Return the units of a shard in the order in which they are run.

    Raises:
        InputError: if there is no such shard.
    """
    number, count = shard
    if not 0 <= number < count:
        raise InputError(f"shard {number} of {count}: give 0/N to N-1/N, such as 0/4 to 3/4")
    # all methods finish a repeat before the next one begins
    units = [
        Unit(task, method, repeat)
        for repeat in range(repeats)
        for task in dict.fromkeys(tasks)
        for method in methods
        if methods[method].supports(source.tasks[task])
    ]
    # the units of every method are divided among the shards, as only some methods are trained
    by_method = sorted(units, key=lambda u: list(methods).index(u.method))
    in_shard = set(by_method[number::count])
    return [u for u in units if u in in_shard]


def _scoring_seconds(
    units: Sequence[Unit],
    methods: Mapping[str, BenchmarkMethod],
    source: BenchmarkSource,
    pretrained: BackboneSource,
    settings: Settings,
) -> float:
    """Return the estimated seconds of scoring the test images of units.

    Every method is measured once, for at most ``LONG_MEASUREMENT_S`` together. Methods that are not
    measured count with the mean of the others.
    """
    per_image: dict[str, list[float]] = {}
    begin = time.monotonic()
    for unit in units:
        if unit.method not in per_image and time.monotonic() - begin < LONG_MEASUREMENT_S:
            method = methods[unit.method]
            seconds = scoring_seconds(unit, method, source, pretrained, settings)
            per_image[unit.method] = [seconds]
    images = sum(len(source.tasks[unit.task].test) for unit in units)
    mean = seconds_left([unit.method for unit in units], per_image) / max(1, len(units))
    return images * mean * settings.scorings


def seconds_left(methods: Sequence[str], spent: Mapping[str, Sequence[float]]) -> float:
    """Return the estimated seconds of units, from finished units of the same methods.

    Args:
        methods: method of each unit.
        spent: seconds of the finished units by method; a method without any counts with the mean of
            all.
    """
    all_seconds = [seconds for of_method in spent.values() for seconds in of_method]
    return math.fsum(statistics.fmean(spent.get(method, all_seconds)) for method in methods)
