"""Make the tables and the plot of pretraining_helps.py from its stored units."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from labelled_rooms import TASKS
from plots import Panel, Plot
from reporting import cell, paragraph, table
from tables import read

ROWS = {
    "frozen-pretrained": "frozen pretrained features, light head",
    "frozen-random": "frozen random UNet on the pretrained latents, the same head",
    "frozen-all-random": "frozen random UNet on the latents of a random VAE, the same head",
    "tuned-pretrained": "fine-tuned from pretrained",
    "tuned-scratch": "fine-tuned from a random UNet on the pretrained latents",
    "rgb-unet": "RGB U-Net from scratch",
    "map": "no image: mean map, for classes the majority map",
    "grid": "the true labels, downsampled to the finest feature grid and upsampled again",
}
REFERENCE = "frozen-pretrained"
CURVE_COUNT = 20  # training images in the comparison of checkpoints


def results(out: Path, row: str, task: str, count: int) -> tuple[dict[int, float], list[float]]:
    """Return the scores of a table cell by support, and the loss ratios of its trainings.

    A loss ratio is the mean loss of the last tenth of the steps, divided by that of the tenth
    before. It is about 1 if the loss no longer decreases.
    """
    scores, settled = {}, []
    for path in sorted(out.glob(f"{row}-{task}-{count}-*.json")):
        unit = json.loads(path.read_text(encoding="utf-8"))
        scores |= {int(support): score for support, score in unit["scores"].items()}
        settled += unit["settled"]
    return scores, settled


def report(args: argparse.Namespace, out: Path, weights: str) -> str:
    """Return the text of the page: an explanation, and the table of all rows."""
    lines, settled = [], []
    for name, task in TASKS.items():
        for row, title in ROWS.items():
            cells, supports = [], 0
            for count in args.counts:
                scores, ratios = results(out, row, name, count)
                reference = scores
                if row != REFERENCE:
                    reference, _ = results(out, REFERENCE, name, count)
                cells.append(cell(scores, reference, task.decimals))
                settled += ratios
                supports = max(supports, len(scores))
            if supports:
                lines.append([f"{name} ({task.unit})", title, str(supports), *cells])
    head = ["task", "features", "supports", *(f"N = {n}" for n in args.counts)]
    ratios = f"{min(settled):.2f} to {max(settled):.2f}" if settled else "unknown"
    about = (
        f"Weights {weights[:12]}, rooms of {args.size} px. A support is a set of N labelled rooms "
        f"of `val`; scores are measured on {args.tests} rooms of `test`. A cell has the mean over "
        "the supports ± its 95 % interval; in brackets is the paired difference to the frozen "
        f"pretrained features. Heads on frozen features are trained for {args.steps} steps of "
        f"{args.batch} images, fine-tuned UNets and the RGB U-Net for {args.tuned_steps}. The mean "
        f"loss of the last tenth of the steps is {ratios} times that of the tenth before. All "
        "supports of a frozen row have the same random UNet."
    )
    parts = (paragraph(about), table(head, lines), paragraph(f"`{command()}`"))
    return "\n\n".join(parts)


def curve_report(rows: Mapping[str, tuple[Path, str]], args: argparse.Namespace) -> str:
    """Return the table of the frozen features of several checkpoints of one pretraining.

    Args:
        rows: folder of the units and key of ``ROWS``, for each name of a checkpoint.
        args: options of the command line.
    """
    lines = []
    for checkpoint, (out, row) in rows.items():
        scores = {name: results(out, row, name, CURVE_COUNT)[0] for name in args.tasks}
        cells = [cell(scores[name], scores[name], TASKS[name].decimals) for name in args.tasks]
        lines.append([checkpoint, *cells])
    head = ["checkpoint", *(f"{name} ({TASKS[name].unit})" for name in args.tasks)]
    return (
        f"Frozen features by checkpoint of the pretraining, N = {CURVE_COUNT} rooms of {args.size} "
        f"px (mean of {args.supports} supports ± its 95 % interval).\n\n"
        f"{table(head, lines)}\n\n"
        f"`{command()}`"
    )


def curve_plot(path: Path) -> Plot:
    """Return the plot of the scores by steps of the pretraining, from the stored table.

    A random UNet has 0 steps. The baseline without an image is measured with the same supports.
    """
    units = read(path)

    def repeats(folder: str, row: str, task: str) -> list[float]:
        return list(units[f"{folder}{row}-{task}-{CURVE_COUNT}-0"]["scores"].values())

    names = {name.split("/")[1] for name in units if name.startswith("curve/")}
    checkpoints = sorted(names, key=int)
    panels = []
    for name, task in TASKS.items():
        values = {0: repeats(f"curve/{checkpoints[0]}/", "frozen-random", name)}
        values |= {int(c): repeats(f"curve/{c}/", REFERENCE, name) for c in checkpoints}
        baseline = {"mean map; for classes majority map (no image)": repeats("", "map", name)}
        title = "classes (higher is better)" if name == "class" else f"{name} (lower is better)"
        curves = {"light head on frozen features": values}
        x_label = "steps of the pretraining"
        panels.append(Panel(title, x_label, task.unit, task.decimals, curves, baseline))
    caption = "Scores of frozen features by steps of the pretraining, with 95 % intervals"
    return Plot("score_by_pretraining", caption, tuple(panels))


def command() -> str:
    """Return the command line of this run; absolute paths are replaced by their last part."""
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join(["python benchmarks/pretraining_helps.py", *arguments])
