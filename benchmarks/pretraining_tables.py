"""Make the table of pretraining_helps.py from the files of its units."""

import argparse
import json
import sys
from pathlib import Path

from labelled_rooms import TASKS
from reporting import cell, table

ROWS = {
    "frozen-pretrained": "frozen pretrained features, light head",
    "frozen-random": "frozen random UNet on the pretrained latents, the same head",
    "frozen-all-random": "frozen random UNet on the latents of a random VAE, the same head",
    "tuned-pretrained": "fine-tuned from pretrained",
    "tuned-scratch": "fine-tuned from a random UNet on the pretrained latents",
    "rgb-unet": "RGB U-Net from scratch",
    "map": "no image: per-pixel mean map, for classes the majority",
    "grid": "the true labels themselves, at the grid of the finest features and brought back",
}
REFERENCE = "frozen-pretrained"


def results(out: Path, row: str, task: str, count: int) -> tuple[dict[int, float], list[float]]:
    """Return the scores by support, and how far the losses had settled, of a cell's units."""
    scores, settled = {}, []
    for path in sorted(out.glob(f"{row}-{task}-{count}-*.json")):
        unit = json.loads(path.read_text(encoding="utf-8"))
        scores |= {int(support): score for support, score in unit["scores"].items()}
        settled += unit["settled"]
    return scores, settled


def report(args: argparse.Namespace, out: Path, weights: str) -> str:
    """Return the table with an explanation."""
    lines, settled = [], []
    for name, task in TASKS.items():
        for row, title in ROWS.items():
            cells, some = [], 0
            for count in args.counts:
                scores, ratios = results(out, row, name, count)
                reference = scores
                if row != REFERENCE:
                    reference, _ = results(out, REFERENCE, name, count)
                cells.append(cell(scores, reference, task.decimals))
                settled += ratios
                some = max(some, len(scores))
            if some:
                lines.append([f"{name} ({task.unit})", title, str(some), *cells])
    head = ["task", "features", "supports", *(f"N = {n}" for n in args.counts)]
    ratios = f"{min(settled):.2f} to {max(settled):.2f}" if settled else "unknown"
    return (
        f"Weights {weights[:12]}, {args.size} px, N labelled rooms of "
        f"`val`, {args.tests} rooms of `test`. Mean over the supports ± 95 % interval of that "
        "mean; in brackets the paired difference to the frozen pretrained features with its "
        f"interval. Heads: {args.steps} steps of {args.batch} images, fine-tuned and RGB: "
        f"{args.tuned_steps}; loss over the last tenth of the steps relative to the tenth before: "
        f"{ratios}. One random UNet serves all supports of a frozen row."
        f"\n\n{table(head, lines)}\n\n"
        f"`{command(args)}`"
    )


def command(args: argparse.Namespace) -> str:
    """Return the command line, with names in place of absolute paths."""
    words = [Path(w).name if Path(w).is_absolute() else w for w in sys.argv[1:]]
    return " ".join(["python benchmarks/pretraining_helps.py", *words])
