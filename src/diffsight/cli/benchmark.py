"""``diffsight benchmark few-shot``: compare methods on the same few labelled images."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from diffsight.benchmark.options import UnitOptions
from diffsight.choices import NYUTrainSplit, Preset
from diffsight.cli import options
from diffsight.cli.flags import Flag, command, example_of
from diffsight.errors import InputError
from diffsight.formats.durations import duration
from diffsight.locks import share_folder

if TYPE_CHECKING:
    from diffsight.benchmark.methods import BenchmarkMethod
    from diffsight.benchmark.run import Forecast, Standing
    from diffsight.benchmark.source import BenchmarkSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What methods are compared on.

    Attributes:
        data: what methods are compared on.
        root: folder of Taskonomy or NYU, which need it.
        preset: how Taskonomy is scored, see docs/benchmark.md.
        split: buildings of Taskonomy that are scored: test, val, or one of them.
        normals: folder of normals for NYU (default: none).
        test_list: list of NYU's images that are scored (default: all).
        train_split: images of NYU that methods are trained on: those of sync/, or the labelled ones
            of official_splits/train.
        max_images: score only N images (default: 100 of rooms, all of Taskonomy).
        size: pixels of a room's side.
    """

    data: Literal["rooms", "taskonomy", "nyu"] = "rooms"
    root: options.Folder | None = None
    preset: Preset = "vtm"
    split: str = "muleshoe"
    normals: options.Folder | None = None
    test_list: options.File | None = None
    train_split: NYUTrainSplit = "train"
    max_images: int | None = None
    size: int = 128

    def source(self) -> "BenchmarkSource":
        """Return the tasks and images.

        Raises:
            InputError: if they are not there, or options do not fit.
        """
        from diffsight.benchmark.nyu import nyu_source
        from diffsight.benchmark.rooms import rooms_source
        from diffsight.benchmark.taskonomy import taskonomy_source

        if self.data == "rooms":
            count = 100 if self.max_images is None else self.max_images
            return rooms_source(size=self.size, count=count)
        if self.root is None:
            raise InputError(f"--data {self.data} needs --root DIR, where its files are")
        if self.data == "taskonomy":
            return taskonomy_source(
                root=self.root, preset=self.preset, split=self.split, max_images=self.max_images
            )
        if self.max_images is not None:
            raise InputError("--max-images: NYU is scored on the images of --test-list")
        return nyu_source(
            root=self.root,
            normals=self.normals,
            test_list=self.test_list,
            train_split=self.train_split,
        )


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Which methods are compared.

    Attributes:
        methods: names of docs/benchmark.md, or classes of your own (package.Class); options follow
            a name, as in few_shot:codebook=5:max_steps=500.
        reference: method that the others are compared with (default: auto, or the first by name).
        predictions: predictions of another program to score too: DIR/TASK/ID.npy, or
            DIR/rep000/TASK/ID.npy ... of every repeat.
        dino: DINOv2 model, for dinov2-linear.
    """

    methods: tuple[str, ...] = ("auto", "few_shot", "mean-map", "constant")
    reference: Annotated[str | None, Flag("A")] = None
    predictions: options.Folder | None = None
    dino: Annotated[str | None, Flag("DIR")] = None

    def __post_init__(self) -> None:
        """Put specs together that a comma within brackets divided."""
        from diffsight.adaptation.candidates import split_specs

        object.__setattr__(self, "methods", tuple(split_specs(",".join(self.methods))))

    def rows(self, out: Path, trusted: Sequence[str]) -> "dict[str, BenchmarkMethod]":
        """Return the rows of the table.

        Raises:
            InputError: for an unknown method or reference.
        """
        from diffsight.benchmark.registry import benchmark_methods
        from diffsight.benchmark.report import finished_methods
        from diffsight.benchmark.trivial_baselines import Stored

        rows = benchmark_methods(self.methods, dino=self.dino, trusted=trusted)
        if self.predictions:
            rows["predictions"] = Stored(self.predictions)
        if self.reference is not None and self.reference not in {*rows, *finished_methods(out)}:
            raise InputError(f"--reference {self.reference}: choose from {', '.join(rows)}")
        return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark that the first word names; there is one."""
    parser = argparse.ArgumentParser(
        prog="diffsight benchmark", epilog=example_of(few_shot.function)
    )
    text = "compare methods on the same few labelled images (few-shot --help says more)"
    parser.add_argument("name", choices=["few-shot"], help=text)
    parser.parse_args(argv[:1])
    return few_shot(argv[1:])


@command("benchmark few-shot", claim=share_folder)
def few_shot(
    *,
    out: options.Folder,
    report: bool = False,
    tasks: tuple[str, ...] = ("all",),
    shots: tuple[int, ...] = (10,),
    repeats: int = 5,
    shard: Annotated[str, Flag("I/N")] = "0/1",
    backbone: options.Backbone = "tiny",
    data: DataOptions,
    methods: MethodOptions,
    training: partial[UnitOptions],
    runtime: options.RuntimeOptions,
) -> int:
    """Compare methods on the same few labelled images.

    Args:
        out: folder of results.
        report: run nothing, report what the folder holds.
        tasks: names of tasks.
        shots: numbers of labelled images that a method trains on.
        repeats: draws of the labelled images.
        shard: run part I of N, counted from 0, such as 0/4.
        data: what methods are compared on.
        methods: which methods are compared.
        training: how a method is trained.
        runtime: what it runs on.

    Example:
        diffsight benchmark few-shot --tasks normal --out runs/normal
    """
    from diffsight.backbones import BackboneSource
    from diffsight.benchmark.report import write_report
    from diffsight.benchmark.run import benchmark
    from diffsight.benchmark.units import Settings

    if report:
        sys.stdout.write(write_report(out, reference=methods.reference))
        return 0
    part = _shard(shard)
    options.require_writable(out)
    rows = methods.rows(out, runtime.trusted(methods.methods))
    source = data.source()
    _warn("%s", source.notes)
    hardware = runtime.hardware()
    settings = [Settings(**training.keywords, shots=n, runtime=hardware) for n in shots]
    chosen = _usable(source, max(shots)) if tasks == ("all",) else tasks
    pretrained = BackboneSource(backbone)
    for some in settings:
        benchmark(
            source,
            tasks=chosen,
            methods=rows,
            pretrained=pretrained,
            out=out,
            repeats=repeats,
            settings=some,
            shard=part,
            announce=_announce,
            advance=_advance,
        )
    _warn("skipped %s", source.skipped)
    sys.stdout.write(write_report(out, reference=methods.reference))
    return 0


def _warn(form: str, lines: Sequence[str]) -> None:
    for line in lines:
        log.warning(form, line)


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise InputError(f"--shard {text!r}: give 0/4 for the first of four parts")
    return int(number), int(count)


def _usable(source: "BenchmarkSource", shots: int) -> list[str]:
    """Return all tasks but those with too few images, such as a rare class of Taskonomy.

    Raises:
        InputError: if none is left.
    """
    usable = []
    for name, task in source.tasks.items():
        train, test = len(task.train), len(task.test)
        if train < shots or not test:
            log.warning(
                "left out: %s: %d images for %d shots, %d to score", name, train, shots, test
            )
        else:
            usable.append(name)
    if not usable:
        raise InputError(f"{source.name}: no task has images for {shots} shots: ask for fewer")
    return usable


def _announce(forecast: "Forecast") -> None:
    parts = []
    if forecast.training_seconds:
        parts.append(f"{duration(forecast.training_seconds)} of training")
    if forecast.scoring_seconds:
        parts.append(f"{duration(forecast.scoring_seconds)} of scoring test images")
    cost = f", about {' and '.join(parts)}" if parts else ""
    log.info("%d units, %d of them are finished%s", forecast.units, forecast.done, cost)


def _advance(standing: "Standing") -> None:
    unit = standing.unit
    log.info(
        "%d/%d  %s  %s  repeat %d: %.4g  (about %.0f min left)",
        standing.done,
        standing.units,
        unit.task,
        unit.method,
        unit.repeat,
        standing.score,
        standing.seconds_left / 60,
    )
