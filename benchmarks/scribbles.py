"""Measure what fraction of the gain from full masks is reached with a few strokes as labels.

    python benchmarks/scribbles.py --draws 5
    python benchmarks/scribbles.py --images DIR --labels DIR --invalid 0

Each image gets 20 random strokes of 3 pixels width; the rule was fixed before the first result. The
class of a stroke is drawn in proportion to its area, and the stroke begins at a random pixel of the
class. It is an eighth of the short side long, and turns a little at every step of one pixel. It
takes another direction where it would leave the region of its class. No pixel outside of the mask
of the class is painted.

The same candidate of ``adapt`` is trained on full masks and on strokes. The fraction of the gain is
(strokes - mean map) / (masks - mean map) of the scores on unseen images: other rooms, or each
photograph in turn.
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

# TURN: standard deviation of the angle between two steps, radians
STROKES, TRIES, TURN = 20, 16, 0.35
SCORE_PX = 256  # short side of the labels that predictions are scored with


def scribble(sample: Sample, label: str, seed: int) -> Sample:
    """Return a copy of a sample whose label is valid only on random strokes."""
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
    """Train the light head on a backbone, and return the metric sums of every test image."""
    pairs = candidates(["feature_head"], backbone_sources(backbone), lambda **_: task)
    model = select(train, task, pairs, minutes=60.0, seed=seed)
    held_out = [encode(model, s, model.info["short_side"], mirror=False) for s in tests]
    variants = [dict(variant) for variant in model.method.variants()]
    best = variants.index(model.info["variant"])
    return [rows[best] for rows in measure_variants(model, held_out, targets(tests, task))]


def targets(samples: Sequence[Sample], task: AbstractTask) -> list:
    """Return the labels of samples, resized to a short side of ``SCORE_PX``."""
    sizes = [working_hw(*s.image.shape[-2:], short_side=SCORE_PX) for s in samples]
    return [target_of(s, hw, task.label) for s, hw in zip(samples, sizes, strict=True)]


def compare(
    name: str,
    rounds: Sequence[tuple[Sequence[Sample], Sequence[Sample]]],
    task: AbstractTask,
    backbone: str,
    seed: int,
) -> float:
    """Print the scores with masks, with strokes and of the mean map; return the fraction.

    Args:
        name: first cell of the printed row.
        rounds: pairs of training and test images; the scores are over all rounds together.
        task: task of the masks.
        backbone: backbone of the light head.
        seed: seed of strokes and trainings.
    """
    sums: dict[str, list[torch.Tensor]] = {"masks": [], "strokes": [], MEAN_MAP: []}
    labelled = []
    for train, tests in rounds:
        scribbled = [scribble(sample, task.label, seed) for sample in train]
        labelled += [float(s.valid[task.label].float().mean()) for s in scribbled]
        sums["masks"] += score(train, tests, task, backbone, seed)
        sums["strokes"] += score(scribbled, tests, task, backbone, seed)
        base = measure_baselines(task, targets(train, task), targets(tests, task))
        sums[MEAN_MAP] += base[MEAN_MAP]
    rows = {key: task.score(torch.stack(parts).sum(dim=0)) for key, parts in sums.items()}
    fraction = (rows["strokes"] - rows[MEAN_MAP]) / (rows["masks"] - rows[MEAN_MAP])
    scores = " | ".join(f"{value:.2f}" for value in rows.values())
    painted = f"{100 * np.mean(labelled):.1f} %"
    print(f"| {name} | {painted} | {scores} | {100 * fraction:.0f} % |", flush=True)
    return fraction


def main() -> None:
    """Print a table with a row for each draw of strokes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=Path, help="folder of photographs (default: rendered rooms)"
    )
    parser.add_argument("--labels", type=Path, help="folder of their masks")
    parser.add_argument("--invalid", type=float, help="value of pixels without a label")
    parser.add_argument("--backbone", default="efficientnet-lite0@256")
    parser.add_argument(
        "--draws", type=int, default=5, help="number of draws of strokes and of rooms"
    )
    parser.add_argument("--tests", type=int, default=48, help="number of unseen rooms")
    args = parser.parse_args()
    print("| draw | labelled pixels | masks, mIoU | strokes | mean map | fraction of the gain |")
    print("| --- | --- | --- | --- | --- | --- |")
    fractions = []
    for draw in range(args.draws):
        if args.images:
            form = LabelFormat("segmentation", None, args.invalid, snap=False)
            folder = read_labelled_folder(args.images, args.labels, form)
            samples, task = folder.samples, task_for(folder)
            rounds = [
                ([sample for j, sample in enumerate(samples) if j != i], [samples[i]])
                for i in range(len(samples))
            ]
        else:
            rooms = Rooms("val", 10 * (draw + 1), SCORE_PX, ("semantic",))
            unseen = Rooms("test", args.tests, SCORE_PX, ("semantic",))
            task = Segmentation(CLASSES)
            train = [rooms[10 * draw + i] for i in range(10)]
            rounds = [(train, [unseen[i] for i in range(args.tests)])]
        fractions.append(compare(str(draw), rounds, task, args.backbone, draw))
    mean, lowest = 100 * np.mean(fractions), 100 * min(fractions)
    print(f"fraction of the gain: {mean:.0f} % (lowest {lowest:.0f} %)")


if __name__ == "__main__":
    main()
