"""``diffsight benchmark few-shot``: compare methods on the same few labelled images."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from diffsight.benchmark.options import UnitOptions
from diffsight.choices import NYUTrainSplit, Preset
from diffsight.cli import options
from diffsight.cli.flags import Flag, OneLineParser, command, example_of
from diffsight.errors import InputError
from diffsight.formats.durations import format_duration
from diffsight.locks import share_folder

if TYPE_CHECKING:
    from diffsight.benchmark.methods import BenchmarkMethod
    from diffsight.benchmark.run import Forecast, Progress
    from diffsight.benchmark.source import BenchmarkSource

OPTIONS_OF = {
    "rooms": ("size", "max_images"),
    "taskonomy": ("root", "preset", "split", "max_images"),
    "nyu": ("root", "normals", "test_list", "train_split"),
}
"""Options of ``DataOptions`` that a data set has."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data set of the comparison.

    Attributes:
        data: data set: rooms (rendered on the fly), taskonomy, or nyu.
        root: folder of the data set; required for taskonomy and nyu.
        preset: evaluation protocol of Taskonomy (docs/benchmark.md).
        split: test buildings of Taskonomy: test, val, or the name of one building.
        normals: folder of surface normals for NYU (default: no normals).
        test_list: text file of the NYU images to score (default: all test images).
        train_split: training images of NYU: train (folder sync/), or official-train (the densely
            labelled images of official_splits/train).
        max_images: number of test images to score (default: 100 rooms; all images of Taskonomy).
        size: height and width of a room in pixels.
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
        """Return the tasks and images of the data set.

        Raises:
            InputError: if files are missing, or options contradict each other.
        """
        from diffsight.benchmark.nyu import nyu_source
        from diffsight.benchmark.rooms import rooms_source
        from diffsight.benchmark.taskonomy import taskonomy_source

        for one in fields(self):
            is_used = one.name in ("data", *OPTIONS_OF[self.data])
            if not is_used and getattr(self, one.name) != one.default:
                option = "--" + one.name.replace("_", "-")
                raise InputError(f"{option} has no effect on --data {self.data}: leave it out")
        if self.data == "rooms":
            count = 100 if self.max_images is None else self.max_images
            return rooms_source(size=self.size, count=count)
        if self.root is None:
            raise InputError(f"--data {self.data} needs --root DIR, the folder of its files")
        if self.data == "taskonomy":
            return taskonomy_source(
                root=self.root, preset=self.preset, split=self.split, max_images=self.max_images
            )
        return nyu_source(
            root=self.root,
            normals=self.normals,
            test_list=self.test_list,
            train_split=self.train_split,
        )


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Methods of the comparison.

    Attributes:
        methods: methods to compare (docs/benchmark.md), or classes of your own (package.Class);
            options follow a name, as in few_shot:codebook=5:max_steps=500.
        reference: method that all others are compared with (default: auto, or else the first by
            name).
        predictions: folder with predictions of another program, which are scored too:
            DIR/TASK/ID.npy, or DIR/rep000/TASK/ID.npy ... if they differ between repeats.
        dino: DINOv2 model for the method dinov2-linear: a folder.
    """

    methods: tuple[str, ...] = ("auto", "few_shot", "mean-map", "constant")
    reference: Annotated[str | None, Flag("A")] = None
    predictions: options.Folder | None = None
    dino: Annotated[str | None, Flag("DIR")] = None

    def __post_init__(self) -> None:
        """Join method specs that were split at a comma within brackets."""
        from diffsight.adaptation.candidates import split_specs

        object.__setattr__(self, "methods", tuple(split_specs(",".join(self.methods))))

    def rows(self, out: Path, trusted: Sequence[str]) -> "dict[str, BenchmarkMethod]":
        """Return the methods by name, one per row of the report.

        Raises:
            InputError: for an unknown method or reference.
        """
        from diffsight.benchmark.registry import benchmark_methods
        from diffsight.benchmark.report import finished_methods
        from diffsight.benchmark.trivial_baselines import Stored

        rows = benchmark_methods(self.methods, dino=self.dino, trusted=trusted)
        if self.predictions:
            rows["predictions"] = Stored(self.predictions)
        if self.reference is not None and self.reference not in rows:
            choices = dict.fromkeys([*rows, *sorted(finished_methods(out))])
            if self.reference not in choices:
                raise InputError(f"--reference {self.reference}: choose from {', '.join(choices)}")
        return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark that the first argument names; the only one is ``few-shot``."""
    parser = OneLineParser(prog="diffsight benchmark", epilog=example_of(few_shot.function))
    text = "few-shot: compare methods on the same few labelled images (options: few-shot --help)"
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

    Every method is trained on several random draws of the labelled images and scored on the same
    test images. Finished parts are kept in the output folder, so an interrupted run continues.

    Args:
        out: folder for results and report.md.
        report: train nothing; only write and print the report of the results in --out.
        tasks: tasks of the data set to train on; all for every task.
        shots: numbers of labelled training images.
        repeats: number of random draws of the training images.
        shard: I/N runs only part I of N, counted from 0, so that N processes can divide the work.
        data: data set of the comparison.
        methods: methods of the comparison.
        training: training of every method.
        runtime: device and dtype of the training, and trusted packages.

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
    part = _parse_shard(shard)
    options.require_writable(out)
    rows = methods.rows(out, runtime.trusted(methods.methods))
    source = data.source()
    _warn("%s", source.notes)
    device = runtime.make_runtime()
    settings = [Settings(**training.keywords, shots=n, runtime=device) for n in shots]
    chosen = _usable_tasks(source, max(shots)) if tasks == ("all",) else tasks
    pretrained = BackboneSource(backbone)
    for one in settings:
        benchmark(
            source,
            tasks=chosen,
            methods=rows,
            pretrained=pretrained,
            out=out,
            repeats=repeats,
            settings=one,
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


def _parse_shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise InputError(f"--shard {text!r}: give I/N, such as 0/4 for the first of four parts")
    return int(number), int(count)


def _usable_tasks(source: "BenchmarkSource", shots: int) -> list[str]:
    """Return the tasks with enough images; rare classes of Taskonomy may have too few.

    Raises:
        InputError: if no task has enough.
    """
    usable = []
    for name, task in source.tasks.items():
        train, test = len(task.train), len(task.test)
        if train < shots or not test:
            log.warning(
                "skipped %s: %d images for %d shots, %d test images", name, train, shots, test
            )
        else:
            usable.append(name)
    if not usable:
        raise InputError(f"{source.name}: no task has images for {shots} shots: choose fewer shots")
    return usable


def _announce(forecast: "Forecast") -> None:
    parts = []
    if forecast.training_seconds:
        parts.append(f"{format_duration(forecast.training_seconds)} of training")
    if forecast.scoring_seconds:
        parts.append(f"{format_duration(forecast.scoring_seconds)} of scoring test images")
    cost = f", about {' and '.join(parts)}" if parts else ""
    log.info("%d units, %d of them finished%s", forecast.units, forecast.done, cost)


def _advance(progress: "Progress") -> None:
    unit = progress.unit
    log.info(
        "%d/%d  %s  %s  repeat %d: %.4g  (about %.0f min left)",
        progress.done,
        progress.units,
        unit.task,
        unit.method,
        unit.repeat,
        progress.score,
        progress.seconds_left / 60,
    )
