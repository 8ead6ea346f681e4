"""The few-shot benchmark: tasks x methods x repeats, in units that are each run once."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffsight.backbones import BackboneSource
from diffsight.benchmark.methods import BenchmarkMethod
from diffsight.benchmark.source import BenchmarkSource
from diffsight.benchmark.units import Settings, Unit, run, save, scoring_seconds, stored
from diffsight.errors import InputError
from diffsight.ops.memory import keep_freed_memory
from diffsight.training.loop import require_memory

LONG_MEASUREMENT_S = 60.0  # before the first unit


@dataclass(frozen=True)
class Forecast:
    """What a benchmark has to do.

    Attributes:
        units: of this shard.
        done: how many of them are finished.
        training_seconds: of the others; None where the number of steps is given.
        scoring_seconds: estimate for the test images of the others.
    """

    units: int
    done: int
    training_seconds: float | None
    scoring_seconds: float


@dataclass(frozen=True)
class Standing:
    """How far a benchmark is.

    Attributes:
        unit: that has just been finished.
        done: units of this shard that are finished.
        units: of this shard.
        score: of the unit.
        seconds_left: estimated from the units that this call has run.
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
    advance: Callable[[Standing], None] = lambda standing: None,
) -> None:
    """Run the units that have no file yet; an interrupted benchmark continues where it was.

    Args:
        source: tasks and images.
        tasks: names out of ``source.tasks``.
        methods: rows of the table by name.
        pretrained: the frozen model.
        out: folder of the units: ``TASK/METHOD/shotsN/repNNN.json``.
        repeats: draws of training images of every task, the same for all methods.
        settings: of all units.
        shard: number and count of the machines that divide the units.
        announce: called first, with what is to be done; scoring is measured for it.
        advance: called after every unit.

    Raises:
        InputError: for an unknown task, a method that lacks what it needs, training images that
            cannot be learned from, a unit of other options, or a measure that is not finite.
    """
    keep_freed_memory()
    settings = settings or Settings()
    if repeats < 1:
        raise InputError(f"{repeats} repeats: at least one")
    for name in tasks:
        if name not in source.tasks:
            raise InputError(f"{source.name} has no task {name!r}: {', '.join(source.tasks)}")
    require_memory(settings.shots, settings.short_side or 0, settings.runtime)
    number, count = shard
    if not 0 <= number < count:
        raise InputError(f"shard {number} of {count}: give 0/N to N-1/N, such as 0/4 to 3/4")
    # every method runs on some training images before others are drawn
    units = [
        Unit(task, method, repeat)
        for repeat in range(repeats)
        for task in dict.fromkeys(tasks)
        for method in methods
        if methods[method].supports(source.tasks[task])
    ]
    # by method: one machine would get all trainings, another what takes no time
    ours = set(sorted(units, key=lambda u: list(methods).index(u.method))[number::count])
    mine = [u for u in units if u in ours]
    keys = {u: u.key(methods[u.method], source, pretrained, settings) for u in mine}
    there = [u for u in mine if stored(u.path(out, settings.shots), keys[u]) is not None]
    missing = [u for u in mine if u not in set(there)]
    costly = [u for u in missing if methods[u.method].is_trained]
    if announce:
        scoring_s = _scoring_seconds(costly, methods, source, pretrained, settings)
        training_s = None if settings.steps is not None else 60 * settings.minutes * len(costly)
        announce(Forecast(len(mine), len(there), training_s, scoring_s))
    spent: dict[str, list[float]] = {}  # by method: they differ by orders of magnitude
    for done, unit in enumerate(missing, start=1):
        begin = time.monotonic()
        result = run(unit, methods[unit.method], source, pretrained, settings)
        save(unit.path(out, settings.shots), keys[unit], result)
        spent.setdefault(unit.method, []).append(time.monotonic() - begin)
        left = seconds_left([one.method for one in missing[done:]], spent)
        advance(Standing(unit, len(there) + done, len(mine), result["score"], left))


def _scoring_seconds(
    units: Sequence[Unit],
    methods: Mapping[str, BenchmarkMethod],
    source: BenchmarkSource,
    pretrained: BackboneSource,
    settings: Settings,
) -> float:
    """Return the estimated seconds of scoring the test images of units.

    Every method is measured once. When that has taken long, the others count as the mean.
    """
    per_image: dict[str, list[float]] = {}
    begin = time.monotonic()
    for unit in units:
        if unit.method not in per_image and time.monotonic() - begin < LONG_MEASUREMENT_S:
            method = methods[unit.method]
            seconds = scoring_seconds(unit, method, source, pretrained, settings)
            per_image[unit.method] = [seconds]
    images = sum(len(source.tasks[unit.task].test) for unit in units)
    each = seconds_left([unit.method for unit in units], per_image) / max(1, len(units))
    return images * each * settings.scorings


def seconds_left(methods: Sequence[str], spent: Mapping[str, Sequence[float]]) -> float:
    """Return the seconds that units take, by what those of the same method took.

    Args:
        methods: of the units.
        spent: seconds of finished units by method; a method without any takes the mean of all.
    """
    every = [seconds for some in spent.values() for seconds in some]
    return math.fsum(statistics.fmean(spent.get(method, every)) for method in methods)
