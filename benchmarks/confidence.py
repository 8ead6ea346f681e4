"""Measure the coverage of the intervals of ``predict --confidence 0.9`` on unseen rooms.

``feature_head`` on the embedded model is trained for depth or classes on 10, 20 and 40 labelled
rooms, with ten random draws of rooms each. Coverage is the fraction of valid pixels whose label is
in the interval, over 256 unseen rooms of the split ``test``. For comparison, intervals of one
constant width are calibrated in the same way, with the absolute error as the score. The table goes
into docs/results.md.

    OMP_NUM_THREADS=1 python benchmarks/confidence.py [--task depth] [--confidence 0.9]
    python benchmarks/confidence.py --quick     # test run: a few rooms and steps, write nothing
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from reporting import RESULTS, paragraph, table, write_block
from torch import Tensor

from diffsight.adaptation.calibration import held_out_outputs, thresholds
from diffsight.adaptation.candidates import Candidate, candidates
from diffsight.adaptation.selection import Selection
from diffsight.backbones import BackboneSource
from diffsight.datasets.base import Sample
from diffsight.datasets.labelled_folder import sample_values
from diffsight.inference.confidence import Calibration
from diffsight.model import DenseModel
from diffsight.outputs import Output
from diffsight.rooms import CLASSES, Rooms
from diffsight.tasks import Depth, Segmentation
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import CPU, Views, encode, target_of
from diffsight.types import Target

SHOTS = (10, 20, 40)
SIDE_PX = 128
Pairs = Sequence[tuple[Output, Target]]


@dataclass(frozen=True)
class Draw:
    """The results of one random draw of labelled rooms.

    Attributes:
        coverage: fraction of the valid pixels of all test rooms whose label is in the predicted
            interval or set.
        size: mean width of an interval in metres, or mean number of classes in a set.
        constant_coverage: coverage of intervals of a constant width; 1 for classes.
        constant_size: mean width of these intervals; for classes the number of all classes.
        abstained: fraction of the pixels where the model abstains.
    """

    coverage: float
    size: float
    constant_coverage: float
    constant_size: float
    abstained: float


def make_task(name: str) -> AbstractTask:
    """Return the task before it is fitted."""
    return Depth(max_depth_m=None, bins=40) if name == "depth" else Segmentation(CLASSES)


def fitted(name: str, samples: Sequence[Sample]) -> AbstractTask:
    """Return the task, whose bins are fitted to these rooms if it has bins."""
    task = make_task(name)
    return task.fitted(sample_values(samples, task.label)) if task.needs_fitting else task


def coverage(scores: Sequence[Tensor], q: float) -> float:
    """Return the fraction of all pixels whose score is at most ``q``."""
    return float((torch.cat([*scores]) <= q).double().mean())


def scores_of(task: AbstractTask, rows: Pairs) -> list[Tensor]:
    """Return the nonconformity scores of the valid pixels of every image."""
    return [task.nonconformity(out, t.label)[0][t.valid[0]] for out, t in rows]


def errors_of(task: AbstractTask, rows: Pairs) -> list[Tensor]:
    """Return the absolute errors of the valid pixels of every image."""
    return [(task.to_label(out) - t.label).abs()[0, 0][t.valid[0]] for out, t in rows]


def width(task: AbstractTask, rows: Pairs, half: float) -> float:
    """Return the mean width of constant intervals; they are cut at the lower bound of the task.

    Args:
        task: depth task.
        rows: predictions and labels of the test rooms.
        half: half of the constant width, in metres.
    """
    values = torch.cat([task.to_label(output).flatten() for output, _ in rows])
    return float((values + half - (values - half).clamp(min=task.lower_bound)).mean())


def measure(selection: Selection, test: Callable[[DenseModel], Pairs], confidence: float) -> Draw:
    """Train the method of a selection; return the results on the test rooms.

    Args:
        selection: labelled rooms and method.
        test: returns predictions and labels of the test rooms for a model.
        confidence: fraction of pixels that the intervals should cover.
    """
    model = selection.run()
    task, chosen = model.task, model.info["chosen"]
    q = Calibration.of(model.info).at(confidence).q
    rows = test(model)
    sets = [task.prediction_set(output, q) for output, _ in rows]
    sizes, constant_q = [], 1.0
    if task.class_names:
        sizes = [one.arrays["set"].values.sum(axis=0).mean() for one in sets]
        constant = 1.0, float(len(task.class_names))
    else:
        sizes = [(s.arrays["high"].values - s.arrays["low"].values).mean() for s in sets]
        held = errors_of(task, [*selection.held_out_outputs(chosen)])
        constant_q = thresholds(held)[confidence]
        constant = coverage(errors_of(task, rows), constant_q), width(task, rows, constant_q)
    abstained = sum(float(s.abstain.float().mean()) for s in sets) / len(sets)
    size = float(sum(map(float, sizes)) / len(sizes))
    return Draw(coverage(scores_of(task, rows), q), size, *constant, abstained)


class CachedSelection(Selection):
    """A selection that encodes every room once, because several draws contain the same room.

    Attributes:
        cache: encoded rooms by sample id, shared by all selections.
    """

    cache: dict[str, Views]

    def _encode(self, candidate: Candidate) -> None:
        (model, views) = self._model(candidate), []
        for sample in self.samples:
            if sample.id not in self.cache:
                self.cache[sample.id] = encode(model, sample, SIDE_PX, mirror=False)
            (view,) = self.cache[sample.id]
            soft = model.task.encode_label(view.target.label)
            views.append((type(view)(view.inputs, view.encoded, view.target, soft),))
        self._encoded[candidate.name], self._held_out[candidate.name] = views, []


def run(args: argparse.Namespace) -> dict[int, list[Draw]]:
    """Run all draws; return their results by the number of labelled rooms."""
    source, cache = BackboneSource("tiny"), {}
    labels = ("depth_m",) if args.task == "depth" else ("semantic",)
    pool = Rooms("train", args.pool, SIDE_PX, labels=labels)
    unseen = Rooms("test", args.test, SIDE_PX, labels=labels)
    tests = [unseen[i] for i in range(len(unseen))]
    rooms = functools.cache(pool.__getitem__)
    encoded: list[Views] = []

    def test(model: DenseModel) -> Pairs:
        if not encoded:
            encoded.extend(encode(model, sample, SIDE_PX, mirror=False) for sample in tests)
        targets = [target_of(sample, (SIDE_PX, SIDE_PX), model.task.label) for sample in tests]
        return [*held_out_outputs(model, None, encoded, targets, CPU)]

    results: dict[int, list[Draw]] = {shots: [] for shots in args.shots}
    for repeat in range(args.draws):
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(repeat)).tolist()
        for shots in args.shots:
            begin = time.monotonic()
            samples = [rooms(i) for i in order[:shots]]
            task = fitted(args.task, samples)
            fit = functools.partial(fitted, args.task, samples)
            pairs = candidates(["feature_head"], [source], fit, short_side=SIDE_PX)
            selection = CachedSelection(
                samples, task, pairs, seed=repeat, mirror=False, calibrate=True
            )
            selection.cache = cache
            selection.plan(1.0, args.steps)
            draw = measure(selection, test, args.confidence)
            results[shots].append(draw)
            seconds = time.monotonic() - begin
            sys.stdout.write(f"{repeat} {shots} {draw} {seconds:.0f} s\n")
            sys.stdout.flush()
    return results


def report(results: dict[int, list[Draw]], args: argparse.Namespace) -> str:
    """Return the table with a row for every number of labelled rooms."""
    is_depth = args.task == "depth"
    size = "width, m" if is_depth else "classes per set"
    head = ["labelled rooms", "mean coverage", "lowest coverage", "highest coverage", size]
    head += ["abstained", *(["coverage, constant", "width, m, constant"] if is_depth else [])]
    rows = []
    for shots, draws in results.items():
        covered = [draw.coverage for draw in draws]
        row = [str(shots), f"{mean(covered):.3f}", f"{min(covered):.3f}", f"{max(covered):.3f}"]
        row += [f"{mean([d.size for d in draws]):.2f}", f"{mean([d.abstained for d in draws]):.2f}"]
        if is_depth:
            row += [f"{mean([d.constant_coverage for d in draws]):.3f}"]
            row += [f"{mean([d.constant_size for d in draws]):.2f}"]
        rows.append(row)
    labels = "depth" if is_depth else f"{len(CLASSES)} classes"
    about = (
        f"`feature_head` on `tiny` for {labels}, rooms of {SIDE_PX} px, {args.steps} steps per "
        f"training, confidence {args.confidence:g}, {args.draws} draws of labelled rooms from "
        f"{args.pool}, {args.test} unseen rooms. "
        f"Command: `python benchmarks/confidence.py --task {args.task}`."
    )
    return f"{paragraph(about)}\n\n{table(head, rows)}"


def mean(numbers: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(numbers) / len(numbers)


def main() -> None:
    """Run the experiment and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=["depth", "classes"], default="depth")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument(
        "--shots", type=int, nargs="+", default=SHOTS, help="numbers of labelled rooms"
    )
    parser.add_argument(
        "--draws", type=int, default=10, help="random draws for each number of labelled rooms"
    )
    parser.add_argument("--steps", type=int, default=50, help="steps of every training")
    parser.add_argument("--test", type=int, default=256, help="number of unseen rooms")
    parser.add_argument("--pool", type=int, default=2000, help="rooms to draw from")
    parser.add_argument(
        "--quick", action="store_true", help="test run: a few rooms, no page is written"
    )
    args = parser.parse_args()
    if args.quick:
        args.shots, args.draws, args.steps, args.test, args.pool = (10,), 1, 20, 8, 20
    text = report(run(args), args)
    sys.stdout.write(text)
    if not args.quick:
        write_block(RESULTS, f"confidence {args.task}", text)


if __name__ == "__main__":
    main()
