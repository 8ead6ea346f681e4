"""Compare suggested images with images in a random order, and check the learning-curve forecast.

    nice -n 10 python benchmarks/suggest.py [--draws 20] [--out DIR]   # measure, then report
    python benchmarks/suggest.py --report [--write]                    # from the kept table

A draw is 100 of 200 rooms, four of which are labelled at first; further rooms are labelled one by
one in three orders: at random, by the coverage of ``diffsight suggest``, and by coverage times the
disagreement of heads on folds. All orders of a draw begin with the same rooms. The features are
those of EfficientNet-Lite0 at 128 px, at 16 x 16 positions, reduced to their 128 largest principal
components. A head is trained on them for every number of rooms: for depth a ridge regression, for
classes 40 steps of a softmax regression. Test scores are those of 100 other rooms.

The held-out score is that of three folds of the labelled rooms. From the scores with up to n rooms
the score with 1.5 n and 2 n rooms is forecast. The rules were chosen with other rooms and draws.
Every finished draw is stored in ``--out`` and is not repeated.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
from reporting import (
    RESULTS,
    claim_folder,
    interval,
    say,
    table,
    write_block,
    write_json,
)
from torch import Tensor
from torch.nn import functional

from diffsight.adaptation.learning_curve import forecast_score
from diffsight.adaptation.suggest import FOLDS, fold_disagreement, grid_average, suggest
from diffsight.backbones.efficientnet import EfficientNetLite0
from diffsight.rooms import CLASSES, Rooms

TABLE = tables.TABLES / "suggest.csv"
POOL, CHOSEN, TESTS, SIDE_PX, GRID, FIRST, COMPONENTS = 200, 100, 100, 128, 16, 4, 128
SEED = 28  # of the rooms
PENALTY = 3000.0  # of the squared weights of the ridge regression
CONSTANT = -6  # the input that is the same everywhere; the last five depend on the position
SIZES = (4, 6, 8, 10, 13, 16, 20, 24, 28, 32)  # numbers of labelled rooms with a test score
HELD_OUT = (4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32)  # with a held-out score
FORECASTS = {n: (3 * n // 2, 2 * n) for n in (8, 12, 16)}
COMPARED = (8, 16, 24)  # numbers of rooms in the report
COVERAGE, DISAGREEMENT, RANDOM = "coverage", "coverage x disagreement", "random"
ORDERS = (RANDOM, COVERAGE, DISAGREEMENT)
BOOTSTRAP = 2000


@dataclass(frozen=True)
class Task:
    """The inputs and labels of all rooms at the positions of the grid.

    Attributes:
        name: name of the task in tables.
        inputs: features, ``n p d``; the test rooms come last.
        labels: class fractions or depth in metres, ``n p k``.
        pooled: pooled features, ``n c``.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    pooled: np.ndarray

    @property
    def is_classes(self) -> bool:
        """Whether the labels are classes."""
        return self.name == "classes"

    def train(self, rooms: Sequence[int]) -> Tensor:
        """Return the weights ``d k`` of a head that is trained on these rooms."""
        x, y = self.inputs[rooms].flatten(0, 1), self.labels[rooms].flatten(0, 1)
        if not self.is_classes:
            penalty = torch.full((x.shape[1],), PENALTY)
            penalty[CONSTANT] = 0
            return torch.linalg.solve(x.T @ x + penalty.diag(), x.T @ y)
        return _softmax_regression(x[::2].contiguous(), y[::2].contiguous())

    def score(self, head: Tensor, rooms: Sequence[int]) -> float:
        """Return mIoU in percent, or mean RMSE per room in metres."""
        return self.score_sums(self.measure(head, rooms))

    def measure(self, head: Tensor, rooms: Sequence[int]) -> Tensor:
        """Return sums over rooms that ``score_sums`` takes."""
        output, label = self.inputs[rooms] @ head, self.labels[rooms]
        if not self.is_classes:
            errors = (output - label).square().mean(dim=(1, 2)).sqrt()
            return torch.stack([errors.sum(), torch.tensor(float(len(rooms)))]).double()
        pair = label.argmax(dim=-1) * len(CLASSES) + output.argmax(dim=-1)
        return torch.bincount(pair.flatten(), minlength=len(CLASSES) ** 2).double()

    def score_sums(self, sums: Tensor) -> float:
        """Return the score of sums."""
        if not self.is_classes:
            return float(sums[0] / sums[1])
        confusion = sums.reshape(len(CLASSES), len(CLASSES))
        truth, correct = confusion.sum(dim=1), confusion.diagonal()
        iou = correct / (truth + confusion.sum(dim=0) - correct).clamp(min=1)
        return 100 * float(iou[truth > 0].mean())

    def held_out(self, rooms: Sequence[int]) -> float:
        """Return the score on rooms that are held out in turn."""
        sums = []
        for fold in range(FOLDS):
            rest = [room for i, room in enumerate(rooms) if i % FOLDS != fold]
            sums.append(self.measure(self.train(rest), list(rooms[fold::FOLDS])))
        return self.score_sums(torch.stack(sums).sum(dim=0))


def _softmax_regression(x: Tensor, y: Tensor, steps: int = 40, rate: float = 0.05) -> Tensor:
    """Return the weights of a softmax regression after some steps of Adam on all rows."""
    weights = torch.zeros(x.shape[1], y.shape[1])
    mean, square, total = torch.zeros_like(weights), torch.zeros_like(weights), y.sum(1)[:, None]
    for step in range(1, steps + 1):
        gradient = x.T @ ((x @ weights).softmax(dim=1) * total - y) / len(x) + 0.01 * weights
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient.square()
        now = rate * 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))
        scaled = (square / (1 - 0.99**step)).sqrt() + 1e-8
        weights = weights - now * mean / (1 - 0.9**step) / scaled
    return weights


@torch.no_grad()
def load_rooms(out: Path) -> Mapping[str, Task]:
    """Render the rooms and compute their features, or read them from ``out``; return the tasks."""
    path = out / f"rooms{SEED}.pt"
    if not path.is_file():
        say("rendering rooms ...\n")
        network = EfficientNetLite0("efficientnet-lite0")
        rows = []
        for split, count in (("train", POOL), ("test", TESTS)):
            rooms = Rooms(split, count, SIDE_PX, ("semantic", "depth_m"), seed=SEED)
            rows += [_row(network, rooms[i]) for i in range(count)]
        torch.save([torch.stack(column) for column in zip(*rows, strict=True)], path)
    grids, pooled, classes, depth = torch.load(path)
    pixels = grids[:POOL].flatten(0, 1)  # the test rooms change nothing
    mean, scale = pixels.mean(0), pixels.std(0) + 1e-4
    _, axes = torch.linalg.eigh(torch.cov(((pixels - mean) / scale).T))
    rows, columns = torch.meshgrid(*[(2 * torch.arange(GRID) + 1) / GRID - 1] * 2, indexing="ij")
    ones = torch.ones_like(rows)
    places = torch.stack([ones, rows, columns, rows**2, columns**2, rows * columns], dim=-1)
    places = 3 * places.flatten(0, 1).expand(len(grids), -1, -1)
    inputs = torch.cat([((grids - mean) / scale) @ axes[:, -COMPONENTS:], places], dim=-1)
    labels = {"depth": depth, "classes": classes}
    return {name: Task(name, inputs, label, pooled.numpy()) for name, label in labels.items()}


def _row(network: EfficientNetLite0, room: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return grid features, pooled features, class fractions and depth of a room."""
    levels = network(room.image[None].float() / 255).features
    grid = [functional.interpolate(levels[0], (GRID, GRID), mode="area")]
    grid += [functional.interpolate(level, (GRID, GRID), mode="bilinear") for level in levels[1:]]
    pooled = torch.cat([level.mean(dim=(2, 3))[0] for level in levels])
    ids = functional.one_hot(room.labels["semantic"], len(CLASSES)).movedim(-1, 0)
    maps = (ids.float() * room.valid["semantic"], room.labels["depth_m"])
    labels = [torch.from_numpy(grid_average(one.numpy(), GRID)).float() for one in maps]
    return torch.cat(grid, dim=1)[0].flatten(1).T.contiguous(), pooled, labels[0], labels[1]


def order_rooms(task: Task, order: str, draw: int) -> list[int]:
    """Return the rooms of a draw in the order in which they are labelled."""
    rng = np.random.default_rng((SEED, draw))
    rooms = rng.permutation(POOL)[:CHOSEN]
    labelled = list(range(FIRST))  # positions in ``rooms``
    if order == RANDOM:
        labelled += (FIRST + rng.permutation(CHOSEN - FIRST)).tolist()
    pooled, inputs = task.pooled[rooms], task.inputs[rooms].numpy()
    coarse = [_every_other(one) for one in inputs]
    while len(labelled) < SIZES[-1]:
        disagreement = None
        if order == DISAGREEMENT:
            labels = {i: _every_other(task.labels[rooms[i]].numpy()) for i in labelled}
            disagreement = fold_disagreement(coarse, labels, is_classes=task.is_classes)
        found = suggest(
            pooled, labelled, disagreement=disagreement, disagreement_weight=1.0, count=1
        )
        labelled.append(found.ranking[0].image)
    return rooms[labelled[: SIZES[-1]]].tolist()


def _every_other(rows: np.ndarray) -> np.ndarray:
    """Return every other row and column of the grid."""
    return rows.reshape(GRID, GRID, -1)[::2, ::2].reshape(GRID * GRID // 4, -1)


def run_draw(task: Task, draw: int) -> dict[str, Any]:
    """Return the scores of one draw."""
    unit: dict[str, Any] = {"task": task.name, "draw": draw, "test": {}, "held_out": {}}
    tests = list(range(POOL, POOL + TESTS))
    for order in ORDERS:
        rooms = order_rooms(task, order, draw)
        scores = {str(n): task.score(task.train(rooms[:n]), tests) for n in SIZES}
        unit["test"][order] = scores
        if order != DISAGREEMENT:
            unit["held_out"][order] = {str(n): task.held_out(rooms[:n]) for n in HELD_OUT}
    return unit


def check_forecasts(held_out: Mapping[str, float], *, is_classes: bool) -> dict[str, Any]:
    """Return later held-out scores and their forecasts, by the number of rooms so far."""
    scores = {int(n): score for n, score in held_out.items()}
    checked: dict[str, Any] = {}
    for n, later in FORECASTS.items():
        result = forecast_score(
            [(m, score) for m, score in scores.items() if m <= n],
            higher_is_better=is_classes,
            labelled_images=later,
            bounds=(0, 100) if is_classes else (0, np.inf),
        )
        assert result is not None
        columns = zip(later, result.low, result.score, result.high, strict=True)
        checked[str(n)] = {str(m): {"low": a, "median": b, "high": c} for m, a, b, c in columns}
    return checked


def measure(out: Path, draws: int) -> None:
    """Measure all draws that are not stored in ``out``; say first how long it takes."""
    claim_folder(out, {"backbone": "efficientnet-lite0@128", "rooms": POOL, "seed": SEED})
    tasks = load_rooms(out)
    todo = [(task, draw) for draw in range(draws) for task in tasks.values()]
    todo = [(task, draw) for task, draw in todo if not _path(out, task.name, draw).is_file()]
    begin = time.monotonic()
    for done, (task, draw) in enumerate(todo, start=1):
        path = _path(out, task.name, draw)
        path.parent.mkdir(exist_ok=True)
        write_json(path, run_draw(task, draw))
        if done == len(tasks) or done % 10 == 0:
            left = (time.monotonic() - begin) / done * (len(todo) - done) / 60
            say(f"{done} of {len(todo)}, about {left:.0f} minutes left\n")
    for path in sorted(out.glob("*/draw*.json")):
        unit = json.loads(path.read_text(encoding="utf-8"))
        unit["forecast"] = {
            order: check_forecasts(scores, is_classes=unit["task"] == "classes")
            for order, scores in unit["held_out"].items()
        }
        write_json(path, unit)


def _path(out: Path, task: str, draw: int) -> Path:
    return out / task / f"draw{draw:02d}.json"


def report(units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the results page."""
    parts = []
    for name in ("depth", "classes"):
        rows = [unit for unit in units.values() if unit["task"] == name]
        parts.append(curves_table(rows, is_classes=name == "classes"))
    every = list(units.values())
    parts.append(forecast_table(every))
    return "\n\n".join([*parts, "`python benchmarks/suggest.py --report --write`"])


def curves_table(units: Sequence[Mapping[str, Any]], *, is_classes: bool) -> str:
    """Return a table of test scores, and of the labels that every order needs."""
    decimals, sign = (1, 1) if is_classes else (3, -1)
    curves = {
        order: sign * np.array([[unit["test"][order][str(n)] for n in SIZES] for unit in units])
        for order in ORDERS
    }
    metric = "mIoU, %" if is_classes else "depth, RMSE in m"
    head = [f"{metric}, {len(units)} draws", *(f"{n} rooms" for n in COMPARED), "labels needed"]
    body = []
    for order in ORDERS:
        columns = [SIZES.index(n) for n in COMPARED]
        cells = []
        for column in columns:
            values, reference = sign * curves[order][:, column], sign * curves[RANDOM][:, column]
            text = interval(list(values), f".{decimals}f")
            if order != RANDOM:
                text += f" ({interval(list(values - reference), f'+.{decimals}f')})"
            cells.append(text)
        body.append([order, *cells, "" if order == RANDOM else needed(curves, order)])
    return table(head, body)


def needed(curves: Mapping[str, np.ndarray], order: str) -> str:
    """Return how many labels an order needs, in percent of those of the random order.

    It is the mean over ``COMPARED``, from the mean curves of all draws, with a bootstrap interval
    over the draws.
    """
    first, other = curves[RANDOM], curves[order]
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(first), size=len(first)) for _ in range(BOOTSTRAP)]
    value = _fraction(first.mean(axis=0), other.mean(axis=0))
    every = [_fraction(first[rows].mean(axis=0), other[rows].mean(axis=0)) for rows in draws]
    low, high = np.quantile(every, [0.025, 0.975])
    return f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _fraction(reference: np.ndarray, curve: np.ndarray) -> float:
    """Return the fraction of labels at which a mean curve reaches another one."""
    best = np.maximum.accumulate(curve)
    wanted = [reference[SIZES.index(n)] for n in COMPARED]
    reached = [np.interp(score, best, SIZES) for score in wanted]
    return float(np.mean([n / m for n, m in zip(reached, COMPARED, strict=True)]))


def forecast_table(units: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of how often the intervals contain the later score."""
    selections: Mapping[str, Callable[[str, int, int], bool]] = {
        "1.5 n rooms": lambda order, n, m: m == 3 * n // 2,
        "2 n rooms": lambda order, n, m: m == 2 * n,
        "random order": lambda order, n, m: order == RANDOM,
        "order by coverage": lambda order, n, m: order == COVERAGE,
        **{f"n = {k}": lambda order, n, m, k=k: n == k for k in FORECASTS},
        "all": lambda order, n, m: True,
    }
    checks = [
        (unit["task"], order, int(n), int(m), _compare(unit["held_out"][order], n, m, values))
        for unit in units
        for order, by_number in unit["forecast"].items()
        for n, by_later in by_number.items()
        for m, values in by_later.items()
    ]
    body = []
    for name, is_chosen in selections.items():
        row = [name]
        for task in ("depth", "classes"):
            chosen = [v for t, *key, v in checks if t == task and is_chosen(*key)]
            inside, error, same = np.mean(chosen, axis=0)
            decimals = 3 if task == "depth" else 2
            row += [f"{100 * inside:.0f} %", f"{error:.{decimals}f}, {same:.{decimals}f}"]
        body.append(row)
    head = ["forecast of the held-out score", "depth: inside", "error, error of no change, m"]
    return table([*head, "classes: inside", "error, error of no change, % mIoU"], body)


def _compare(
    scores: Mapping[str, float], n: str, later: str, forecast: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return whether the interval has the later score, and the errors of median and last score."""
    measured = scores[later]
    inside = forecast["low"] <= measured <= forecast["high"]
    return float(inside), abs(forecast["median"] - measured), abs(scores[n] - measured)


def main() -> None:
    """Measure, keep the table, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/suggest"), help="working folder")
    parser.add_argument("--report", action="store_true", help="measure nothing: read the table")
    parser.add_argument("--write", action="store_true", help="write the block of docs/results.md")
    args = parser.parse_args()
    if not args.report:
        torch.set_num_threads(1)
        measure(args.out, args.draws)
        tables.pack(args.out, TABLE)
    text = report(tables.read(TABLE))
    say(text + "\n")
    if args.write:
        write_block(RESULTS, "suggest", text)


if __name__ == "__main__":
    main()
