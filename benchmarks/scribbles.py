"""How much of the gain of full masks a few strokes give.

    python benchmarks/scribbles.py --draws 5
    python benchmarks/scribbles.py --images DIR --labels DIR --invalid 0

The rule of the strokes was fixed before the first result: 20 strokes of 3 pixels on each image. A
stroke begins at a random pixel of a class that is drawn in proportion to its area. It walks in
steps of one pixel for an eighth of the short side, turns a little at every step, and turns around
where it would leave the region of its class. Nothing is painted beyond the mask of the class.

Full masks and strokes train the same candidate; the share is (strokes - mean map) / (masks - mean
map) of the metric on images that were not seen: other rooms, or each photograph in turn.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diffsight.adaptation.adapt import task_for
from diffsight.adaptation.candidates import backbone_sources, candidates
from diffsight.adaptation.selection import select
from diffsight.adaptation.verdict import MEAN_MAP, measure_baselines
from diffsight.datasets.base import Sample
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.ops.resize import working_hw
from diffsight.rooms import Rooms
from diffsight.rooms.world import CLASSES
from diffsight.tasks import AbstractTask, Segmentation
from diffsight.training.loop import encode, measure_variants, target_of

STROKES, TRIES, TURN = 20, 16, 0.35  # TURN: standard deviation of a step's turn, radians
SCORE_PX = 256


def scribble(sample: Sample, label: str, seed: int) -> Sample:
    """Return a sample whose label is known on the strokes alone."""
    ids, valid = sample.labels[label].numpy(), sample.valid[label].numpy()
    height, width = ids.shape
    digest = int(sample.id[:12], 16) if all(c in "0123456789abcdef" for c in sample.id[:12]) else 0
    rng = np.random.default_rng((seed, digest))
    painted = np.zeros_like(valid)
    classes, areas = np.unique(ids[valid], return_counts=True)
    for chosen in rng.choice(classes, STROKES, p=areas / areas.sum()):
        region = valid & (ids == chosen)
        row, column = (float(x) for x in rng.choice(np.argwhere(region)))
        angle = rng.uniform(0, 2 * math.pi)
        for _ in range(min(height, width) // 8):
            top, left = round(row), round(column)
            window = np.s_[max(0, top - 1) : top + 2, max(0, left - 1) : left + 2]
            painted[window] |= region[window]
            angle += rng.normal(0, TURN)
            for _ in range(TRIES):
                y, x = row + math.sin(angle), column + math.cos(angle)
                inside = 0 <= round(y) < height and 0 <= round(x) < width
                if inside and region[round(y), round(x)]:
                    row, column = y, x
                    break
                angle = rng.uniform(0, 2 * math.pi)
            else:
                break
    return replace(sample, valid={**sample.valid, label: torch.from_numpy(painted)})


def score(
    train: Sequence[Sample], tests: Sequence[Sample], task: AbstractTask, backbone: str, seed: int
) -> list[torch.Tensor]:
    """Return the metric sums of every test image of the light head on a backbone."""
    pairs = candidates(["feature_head"], backbone_sources(backbone), lambda **_: task)
    model = select(train, task, pairs, minutes=60.0, seed=seed)
    held = [encode(model, one, model.info["short_side"], mirror=False) for one in tests]
    variants = [dict(one) for one in model.method.variants()]
    best = variants.index(model.info["variant"])
    return [rows[best] for rows in measure_variants(model, held, targets(tests, task))]


def targets(samples: Sequence[Sample], task: AbstractTask) -> list:
    """Return labels at the size of the scores."""
    sizes = [working_hw(*one.image.shape[-2:], short_side=SCORE_PX) for one in samples]
    return [target_of(one, hw, task.label) for one, hw in zip(samples, sizes, strict=True)]


def compare(
    name: str,
    rounds: Sequence[tuple[Sequence[Sample], Sequence[Sample]]],
    task: AbstractTask,
    backbone: str,
    seed: int,
) -> float:
    """Print the scores of masks, strokes and mean map over all rounds; return the share."""
    sums: dict[str, list[torch.Tensor]] = {"masks": [], "strokes": [], MEAN_MAP: []}
    labelled = []
    for train, tests in rounds:
        some = [scribble(one, task.label, seed) for one in train]
        labelled += [float(one.valid[task.label].float().mean()) for one in some]
        sums["masks"] += score(train, tests, task, backbone, seed)
        sums["strokes"] += score(some, tests, task, backbone, seed)
        base = measure_baselines(task, targets(train, task), targets(tests, task))
        sums[MEAN_MAP] += base[MEAN_MAP]
    rows = {key: task.score(torch.stack(parts).sum(dim=0)) for key, parts in sums.items()}
    share = (rows["strokes"] - rows[MEAN_MAP]) / (rows["masks"] - rows[MEAN_MAP])
    shown = " | ".join(f"{value:.2f}" for value in rows.values())
    print(
        f"| {name} | {100 * np.mean(labelled):.1f} % | {shown} | {100 * share:.0f} % |", flush=True
    )
    return share


def main() -> None:
    """Print a table with a row per draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--invalid", type=float)
    parser.add_argument("--backbone", default="efficientnet-lite0@256")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--tests", type=int, default=48, help="rooms that are not seen")
    given = parser.parse_args()
    print("| draw | pixels with a stroke | mIoU of masks | of strokes | of the mean map | share |")
    print("| --- | --- | --- | --- | --- | --- |")
    shares = []
    for draw in range(given.draws):
        if given.images:
            form = LabelFormat("segmentation", None, given.invalid, snap=False)
            folder = read_labelled_folder(given.images, given.labels, form)
            samples, task = folder.samples, task_for(folder)
            rounds = [
                ([one for j, one in enumerate(samples) if j != i], [samples[i]])
                for i in range(len(samples))
            ]
        else:
            rooms = Rooms("val", 10 * (draw + 1), SCORE_PX, ("semantic",))
            unseen = Rooms("test", given.tests, SCORE_PX, ("semantic",))
            task = Segmentation(CLASSES)
            train = [rooms[10 * draw + i] for i in range(10)]
            rounds = [(train, [unseen[i] for i in range(given.tests)])]
        shares.append(compare(str(draw), rounds, task, given.backbone, draw))
    print(f"share: {100 * np.mean(shares):.0f} % (lowest {100 * min(shares):.0f} %)")


if __name__ == "__main__":
    main()
