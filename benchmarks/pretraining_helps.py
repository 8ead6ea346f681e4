"""Measure whether pretraining helps if light heads are trained on few labelled rooms.

A *support* is one set of training images from the split ``val``. Scores are measured on the split
``test``. The pretraining has seen neither. All rows are trained on the same supports, so that
differences are paired. The number of steps is fixed, and nothing is selected on the test rooms.

A *unit* is one or several trainings that are run and stored together. The units of ``--table`` are
unpacked into the working folder ``--out`` and are not run again; new units are added to the table
at the end. An interrupted call can be continued, and ``--rows`` can be measured in several calls.
``--curve`` also draws the plot of the scores by pretraining steps.

    python benchmarks/pretraining_helps.py --model tiny [--rows frozen-pretrained rgb-unet ...]
    python benchmarks/pretraining_helps.py --curve ckpt/0 ckpt/2000 ckpt/8000   # folders by step
    python benchmarks/pretraining_helps.py --model tiny --quick                 # test run
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from labelled_rooms import TASKS, AbstractTask, Grid, Images, render
from plots import write_plot
from pretrained import Extractor, Start, fingerprint, folder_of
from pretraining_tables import CURVE_COUNT, REFERENCE, ROWS, curve_plot, curve_report, report
from probing import (
    EVALUATION_BATCH,
    Frozen,
    LightHead,
    RGBUNet,
    Schedule,
    Tuned,
    Whole,
    evaluate,
    train,
)
from reporting import RESULTS, claim_folder, say, write_block, write_json
from tables import TABLES, pack, unpack
from torch import Tensor, nn
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.ops.memory import keep_freed_memory

STARTS: dict[str, Start] = {
    "frozen-pretrained": "pretrained",
    "frozen-random": "random UNet",
    "frozen-all-random": "all random",
    "tuned-pretrained": "pretrained",
    "tuned-scratch": "random UNet",
}
HEAD_RATE = 2e-3
UNET_RATE = {"tuned-pretrained": 1e-4, "tuned-scratch": 5e-4}
RGB_RATE = 2e-3
SCENES_PER_SUPPORT = 1000  # reserved rooms; supports of all sizes begin with the same ones
UNTRAINED = ("map", "grid")
# options that are the same for all results in one folder
FIXED_OPTIONS = (
    "size",
    "supports",
    "tests",
    "steps",
    "tuned_steps",
    "batch",
    "width",
    "weight_decay",
)
FIXED_OPTIONS += ("timestep", "taps")


@dataclass(frozen=True)
class Unit:
    """One or several trainings that run and are stored together.

    Attributes:
        row: key of ``ROWS``.
        task: key of ``TASKS``.
        count: training images per support.
        supports: indices of the supports.
    """

    row: str
    task: str
    count: int
    supports: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the file with the results, without suffix."""
        return f"{self.row}-{self.task}-{self.count}-{self.supports[0]}"


class Bench:
    """Runs the units of one pretrained model.

    Args:
        args: options of the command line.
        folder: folder of the pretrained model.
        images: function that returns all rooms; it is not called if no unit is missing.
        out: folder of the finished units.
    """

    def __init__(
        self, args: argparse.Namespace, folder: Path, images: Callable[[], Images], out: Path
    ) -> None:
        self.args, self.folder, self.out = args, folder, out
        self._rendered = images
        self.max_count = max(args.counts)
        first_test = args.supports * self.max_count
        self.tests = torch.arange(first_test, first_test + args.tests, device=args.device)
        self._features: dict[Start, list[Tensor]] = {}
        self._latents: Tensor | None = None

    @property
    def images(self) -> Images:
        """All rooms: those of the supports, then the test rooms."""
        return self._rendered()

    def rows_of(self, unit: Unit) -> Tensor:
        """Return the indices of the training images of a unit, ``s n`` (support, image)."""
        first = torch.tensor(unit.supports, device=self.args.device)[:, None] * self.max_count
        return first + torch.arange(unit.count, device=self.args.device)

    def extractor(self, row: str, seed: int = 0) -> Extractor:
        """Return the feature extractor of a row; random weights are drawn with ``seed``."""
        taps, timestep = self.args.taps, self.args.timestep
        extractor = Extractor(self.folder, STARTS[row], timestep=timestep, taps=taps, seed=seed)
        multiple = extractor.backbone.size_multiple
        if self.args.size % multiple:
            raise InputError(f"--size {self.args.size}: give a multiple of {multiple}")
        return extractor.to(self.args.device)

    @torch.no_grad()
    def features(self, row: str) -> list[Tensor]:
        """Return the features of all images, then of their mirror images; they are cached."""
        start = STARTS[row]
        if start not in self._features:
            extractor = self.extractor(row)
            if start == "all random":
                index = torch.arange(min(len(self.images.image), 64))
                extractor.match_latents(self._pixels(index, False))
                latents = self._encode(extractor)
            else:
                latents = self.latents(extractor)
            parts = [[level.half() for level in extractor(batch)] for batch in latents.split(32)]
            self._features[start] = [torch.cat(column) for column in zip(*parts, strict=True)]
        return self._features[start]

    def latents(self, extractor: Extractor) -> Tensor:
        """Return the pretrained latents of all images, then of their mirror images; cached."""
        if self._latents is None:
            self._latents = self._encode(extractor)
        return self._latents

    def _encode(self, extractor: Extractor) -> Tensor:
        indices = torch.arange(len(self.images.image)).split(32)
        both = [[self._pixels(index, mirrored) for index in indices] for mirrored in (False, True)]
        return torch.cat([extractor.encode(pixels) for half in both for pixels in half])

    def _pixels(self, index: Tensor, mirrored: bool) -> Tensor:
        index = index.to(self.args.device)
        return self.images.pixels(index, torch.full_like(index, mirrored, dtype=torch.bool))

    def build(self, unit: Unit) -> tuple[nn.Module, dict[nn.Module, float]]:
        """Return the model of a unit, and the learning rate of each trained part."""
        task, (height, width) = TASKS[unit.task], self.images.image.shape[-2:]
        rows, seed = self.rows_of(unit), unit.supports[0]
        if unit.row.startswith("frozen"):
            levels = self.features(unit.row)
            torch.manual_seed(seed)
            channels = [level.shape[1] for level in levels]
            head = LightHead(channels, task.channels, self.args.width, len(unit.supports))
            model = Frozen(levels, head.to(self.args.device), (height, width))
            head.standardise(model.take(rows, torch.zeros_like(rows, dtype=torch.bool)))
            return model, {head: HEAD_RATE}
        if unit.row == "rgb-unet":
            torch.manual_seed(seed)
            network = RGBUNet(task.channels).to(self.args.device)
            return Whole(self.images, network), {network: RGB_RATE}
        extractor = self.extractor(unit.row, seed)
        torch.manual_seed(seed)
        head = LightHead(extractor.channels, task.channels, self.args.width).to(self.args.device)
        latents = self.latents(extractor)
        with torch.no_grad():
            head.standardise(extractor(latents[rows[0]]))
        model = Tuned(latents, extractor, head, (height, width))
        return model, {head: HEAD_RATE, extractor.backbone.unet: UNET_RATE[unit.row]}

    def schedule(self, row: str) -> Schedule:
        """Return the training schedule of a row."""
        steps = self.args.steps if row.startswith("frozen") else self.args.tuned_steps
        return Schedule(steps, self.args.batch, self.args.weight_decay)

    def run(self, unit: Unit) -> None:
        """Train and score a unit, and store the result."""
        start, task, rows = time.perf_counter(), TASKS[unit.task], self.rows_of(unit)
        settled = []
        if unit.row == "map":
            scores = [self._score_map(task, support) for support in rows]
        elif unit.row == "grid":
            scores = [self._score_grid(task)]
        else:
            model, rates = self.build(unit)
            seed = unit.count * SCENES_PER_SUPPORT + unit.supports[0]
            schedule = self.schedule(unit.row)
            losses = train(model, rates, task, self.images, rows, schedule, seed)
            settled = _settled(losses)
            scores = evaluate(model, task, self.images, self.tests, len(unit.supports))
        result = {"scores": dict(zip(unit.supports, scores, strict=True)), "settled": settled}
        result["seconds"] = time.perf_counter() - start
        write_json(self.out / f"{unit.name}.json", result)

    def _score_map(self, task: AbstractTask, support: Tensor) -> float:
        mean = task.mean_map(*self._truth(task, support))
        label, valid = self._truth(task, self.tests)
        return task.score(task.measure(mean.expand(len(label), -1, -1, -1), label, valid))

    def _score_grid(self, task: AbstractTask) -> float:
        """Return the score of the test labels after down- and upsampling by the finest stride."""
        label, valid = self._truth(task, self.tests)
        weight = valid[:, None].float()
        stride = self.extractor(REFERENCE).backbone.strides[0]
        small = functional.avg_pool2d(task.ideal(label) * weight, stride)
        small = small / functional.avg_pool2d(weight, stride).clamp(min=1e-6)
        raw = functional.interpolate(small, label.shape[-2:], mode="bilinear")
        return task.score(task.measure(task.decode(raw), label, valid))

    def _truth(self, task: AbstractTask, index: Tensor) -> tuple[Tensor, Tensor]:
        grid = Grid.every(1, (0, 0), self.images.image)
        return self.images.truth(task, index, torch.zeros_like(index, dtype=torch.bool), grid)

    def seconds(self, unit: Unit) -> float:
        """Estimate the seconds of a unit from three steps and one batch of test rooms."""
        if unit.row in UNTRAINED:
            return 1.0
        model, rates = self.build(unit)
        short, task = Schedule(3, self.args.batch, 0.0), TASKS[unit.task]
        train(model, rates, task, self.images, self.rows_of(unit), short, 0)
        begin = time.perf_counter()
        train(model, rates, task, self.images, self.rows_of(unit), short, 0)
        step_s = (time.perf_counter() - begin) / short.steps
        begin = time.perf_counter()
        tests = self.tests[:EVALUATION_BATCH]
        evaluate(model, task, self.images, tests, len(unit.supports))
        test_s = (time.perf_counter() - begin) / len(tests)
        return step_s * self.schedule(unit.row).steps + test_s * len(self.tests)


def claim_folders(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Return pairs of a model's folder and the folder of its results.

    The settings are recorded in the folder of results, which must not have other settings.
    """
    if args.curve:
        folders = [folder_of(str(folder)) for folder in args.curve]
        pairs = [(folder, args.out / "curve" / folder.name) for folder in folders]
    else:
        pairs = [(folder_of(args.model), args.out)]
    settings = {key: getattr(args, key) for key in FIXED_OPTIONS}
    for folder, out in pairs:
        claim_folder(out, settings | {"weights": fingerprint(folder)})
    return pairs


def _settled(losses: Tensor) -> list[float]:
    """Return the loss of the last tenth of the steps over that of the tenth before, by support."""
    tenth = max(len(losses) // 10, 1)
    last, before = losses[-tenth:].mean(dim=0), losses[-2 * tenth : -tenth].mean(dim=0)
    return (last / before).tolist()


def units_of(args: argparse.Namespace) -> list[Unit]:
    """Return all selected units; a frozen or untrained row has one unit for all supports."""
    units = []
    for row in args.rows:
        together = row.startswith("frozen") or row in UNTRAINED
        supports = tuple(range(1 if row == "grid" else args.supports))
        groups = [supports] if together else [(s,) for s in supports[: args.tuned_supports]]
        units += [Unit(row, t, n, g) for t in args.tasks for n in args.counts for g in groups]
    return units


def run_missing(bench: Bench, units: Sequence[Unit]) -> None:
    """Run the units that have no file yet, and print the expected time."""
    missing = [unit for unit in units if not (bench.out / f"{unit.name}.json").exists()]
    say(f"{bench.folder.name}: {len(units) - len(missing)} of {len(units)} units are finished\n")
    expected: dict[tuple[str, str], float] = {}
    for unit in missing:
        if (unit.row, unit.task) not in expected:
            expected[unit.row, unit.task] = bench.seconds(unit)
    left = sum(expected[unit.row, unit.task] for unit in missing)
    for number, unit in enumerate(missing):
        say(f"about {left / 60:.1f} min left, {number + 1}/{len(missing)}: {unit.name}\n")
        bench.run(unit)
        left -= expected[unit.row, unit.task]


def curve(args: argparse.Namespace, benches: Sequence[Bench]) -> str:
    """Run the missing units of several checkpoints of one pretraining and return their table."""
    rows = {}
    for bench, row in [(benches[0], "frozen-random"), *((b, REFERENCE) for b in benches)]:
        args.rows = [row]
        run_missing(bench, units_of(args))
        rows["random UNet" if row == "frozen-random" else bench.folder.name] = bench.out, row
    return curve_report(rows, args)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="a diffusers folder, or tiny")
    parser.add_argument("--curve", nargs="+", type=Path, help="checkpoints, from early to late")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument(
        "--counts", nargs="+", type=int, default=[10, 20, 100], help="images per support"
    )
    parser.add_argument("--supports", type=int, default=20, help="number of supports")
    parser.add_argument(
        "--tuned-supports", type=int, default=5, help="supports of rows that are not frozen"
    )
    parser.add_argument("--tests", type=int, default=256, help="number of test rooms")
    parser.add_argument("--size", type=int, default=128, help="side of the rooms in pixels")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of frozen rows")
    parser.add_argument(
        "--tuned-steps", type=int, default=500, help="steps of rows that are not frozen"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=32, help="channels of the light head")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--timestep", type=int, default=1)
    parser.add_argument("--taps", nargs="+", type=int, default=[0, 1, 2, 3], choices=range(4))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    out, stored = Path("runs/pretraining_helps"), TABLES / "pretraining_helps.csv"
    parser.add_argument("--out", type=Path, default=out, help="working folder")
    text = "CSV file of the results; its name is that of their block on the page"
    parser.add_argument("--table", type=Path, default=stored, help=text)
    parser.add_argument("--report", type=Path, default=RESULTS, help="page to write the table into")
    parser.add_argument(
        "--quick", action="store_true", help="short test run that writes no page and no table"
    )
    args = parser.parse_args()
    if args.quick:
        args.supports, args.tuned_supports, args.tests, args.counts = 2, 1, 4, [4]
        args.steps = args.tuned_steps = 4
        args.out = args.out.with_name(f"{args.out.name}_quick")
    if args.curve:
        args.counts = [CURVE_COUNT]
    if not 0 < max(args.counts) <= SCENES_PER_SUPPORT:
        parser.error(f"--counts: give numbers from 1 to {SCENES_PER_SUPPORT}")
    return args


def main() -> None:
    """Run the missing units, add them to the table and write the page."""
    args = parse()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    if not args.quick:
        unpack(args.table, args.out)
    pairs = claim_folders(args)
    first = [s * SCENES_PER_SUPPORT for s in range(args.supports)]
    scenes = [("val", scene + i) for scene in first for i in range(max(args.counts))]
    scenes += [("test", i) for i in range(args.tests)]

    @functools.cache
    def images() -> Images:
        say(f"rendering {len(scenes)} rooms\n")
        return render(scenes, args.size, args.threads if len(scenes) > 200 else 1, args.device)

    benches = [Bench(args, folder, images, out) for folder, out in pairs]
    if args.curve:
        name, text = "pretraining_curve", curve(args, benches)
    else:
        run_missing(benches[0], units_of(args))
        weights = fingerprint(benches[0].folder)
        name, text = args.table.stem, report(args, benches[0].out, weights)
    if not args.quick:
        pack(args.out, args.table)
        if args.curve:
            plot = curve_plot(args.table)
            write_plot(plot, args.report.parent)
            text = f"{plot.markdown}\n\n{text}"
        write_block(args.report, name, text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
