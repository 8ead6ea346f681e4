"""Measure the candidates of ``adapt`` on a few labelled photographs by leave-one-out validation.

    python benchmarks/leave_one_out.py --images DIR --labels DIR --kind segmentation --invalid 0

A candidate is a method with a backbone. Every image is held out once. Each candidate is trained on
the other images, in the same way as ``adapt`` trains a single candidate; ``auto`` chooses among all
candidates like ``adapt``. The score is the metric of the task over all held-out images together. A
row of the table has the mean and the standard deviation over the seeds.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from diffsight.adaptation.adapt import task_for
from diffsight.adaptation.candidates import AUTO, backbone_sources, candidates
from diffsight.adaptation.selection import select
from diffsight.adaptation.verdict import measure_baselines
from diffsight.datasets.base import Sample, collate
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.inference import Plan, Predictor
from diffsight.model import DenseModel
from diffsight.ops.resize import working_hw
from diffsight.tasks import AbstractTask
from diffsight.training.loop import target_of

SCORE_PX = 256  # short side of the labels that predictions are scored with


def main() -> None:
    """Measure all candidates and print the table; write pictures if ``--out`` is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their labels")
    parser.add_argument("--kind", default="segmentation", help="kind of the labels, as in adapt")
    parser.add_argument("--invalid", type=float, help="value of pixels without a label")
    parser.add_argument("--backbones", default="auto")
    parser.add_argument("--methods", nargs="+", default=AUTO)
    parser.add_argument("--steps", type=int, default=100, help="steps of every training")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--auto-seeds", type=int, default=1, help="number of seeds for auto")
    parser.add_argument("--out", type=Path, help="folder for the pictures of auto with seed 0")
    args = parser.parse_args()
    form = LabelFormat(args.kind, None, args.invalid, snap=False)
    folder = read_labelled_folder(args.images, args.labels, form)
    task = task_for(folder)
    samples = folder.samples
    pairs = candidates(args.methods, backbone_sources(args.backbones), lambda **_: task)
    pairs = [pair for pair in pairs if pair.spec.method.supports(pair.source)]
    rows: dict[str, list[float]] = {}
    figures: dict[str, dict[str, float]] = {}
    for seed in range(args.seeds):
        sums: dict[str, list[torch.Tensor]] = {}
        for held in range(len(samples)):
            train = [sample for i, sample in enumerate(samples) if i != held]
            target = _target(samples[held], task)
            fit = partial(select, train, task, steps=args.steps, seed=seed)
            models = {pair.name: fit([pair]) for pair in pairs}
            if seed < args.auto_seeds:
                models["auto"] = fit(pairs)
            for name, model in models.items():
                label = _predict(model, samples[held])
                sums.setdefault(name, []).append(task.measure(label, target))
                if args.out and seed == 0 and name == "auto":
                    _draw(model, samples[held], args.out / f"{held}.png")
            baselines = measure_baselines(task, [_target(s, task) for s in train], [target])
            for name, (baseline_sums,) in baselines.items():
                sums.setdefault(name, []).append(baseline_sums)
        for name, parts in sums.items():
            total = torch.stack(parts).sum(dim=0)
            rows.setdefault(name, []).append(task.score(total))
            figures[name] = dict(task.figures(total))
        print(f"seed {seed}", {n: round(r[-1], 2) for n, r in rows.items()}, file=sys.stderr)
    _report(task, rows, figures)


def _target(sample: Sample, task: AbstractTask):
    hw = working_hw(*sample.image.shape[-2:], short_side=SCORE_PX)
    return target_of(sample, hw, task.label)


def _predict(model: DenseModel, sample: Sample) -> torch.Tensor:
    predictor = Predictor(model, Plan(short_side=model.info["short_side"]))
    hw = working_hw(*sample.image.shape[-2:], short_side=SCORE_PX)
    label = predictor.one(sample.image).to_label()
    small = target_of(
        Sample(
            id="",
            image=sample.image,
            labels={"p": label},
            valid={"p": torch.ones(label.shape[-2:], dtype=torch.bool)},
        ),
        hw,
        "p",
    )
    return small.label


def _draw(model: DenseModel, sample: Sample, path: Path) -> None:
    predictor = Predictor(model, Plan(short_side=model.info["short_side"]))
    batch = collate([sample], model.task.label)
    panel = model.task.panel(
        batch.inputs.image[0], model.task.truth(batch.target)[0], predictor.one(sample.image)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(panel.permute(1, 2, 0).numpy()).save(path)


def _report(
    task: AbstractTask, rows: dict[str, list[float]], figures: dict[str, dict[str, float]]
) -> None:
    print(f"| | {task.metric_name} | other scores of the last seed |\n| --- | --- | --- |")
    for name, values in rows.items():
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        more = ", ".join(f"{k} {v:.1f}" for k, v in list(figures[name].items())[1:6])
        print(f"| {name} | {statistics.mean(values):.2f} ± {deviation:.2f} | {more} |")


if __name__ == "__main__":
    main()
