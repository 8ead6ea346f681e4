"""``diffsight show``: what a task file holds."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight show", description="What a task file holds.")
    parser.add_argument("task", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    args = parser.parse_args(argv)

    from diffsight.hub.task_file import read_task

    about, tensors = read_task(args.task)
    text = json.dumps(about, indent=1) if args.json else describe(about, args.task)
    if not args.json:
        sizes = [f"  {name}: {' x '.join(map(str, v.shape))}" for name, v in tensors.items()]
        text += "\ntensors\n" + "\n".join(sizes)
    sys.stdout.write(text + "\n")
    return 0


def describe(about: Mapping[str, Any], path: Path) -> str:
    """A few lines about a task: what, how well, how to use it."""
    report, base = about["report"], about["base"]
    lines = [
        f"task:    {path} ({path.stat().st_size / 1000:.0f} kB), {about['kind']}"
        + (f" in {about['unit']}" if about["unit"] else ""),
        f"method:  {about['method']}, {about['parameters']:,} numbers learned from "
        f"{len(about['support'])} images on {base['source']} ({base['fingerprint'][:12]}), "
        f"{about['short_side']} px",
    ]
    lines.append(f"learned: {_settings(about)}")
    if share := about["options"].get("place_share"):
        lines.append(f"place:   gives {share:.0%} of every answer, whatever is in the picture")
    if share := about["options"].get("constant_share"):
        lines.append(f"average: the labels' gives {share:.0%} of every answer")
    if about.get("classes"):
        lines.append(f"classes: {', '.join(about['classes']['names'])}")
    if report["held_out"]:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in report["held_out"].items())
        lines.append(f"on images that were held out ({report['score_name']}): {figures}")
    elif not report["interrupted"]:
        lines.append("no image could be held out: give more than one, or --validation")
    if report["interrupted"]:
        lines.append(
            "stopped early: this is what it had learned, it may be from a part of the images; "
            "`adapt --resume` goes on"
        )
    lines.append(f"next:    diffsight predict PHOTO.jpg --task {path} --out DIR")
    return "\n".join(lines)


def _settings(about: Mapping[str, Any]) -> str:
    """Of the training."""
    options, steps = about["options"], about["report"]["steps"].get(about["method"])
    told = [f"{steps} steps", f"seed {about['seed']}", f"alpha {about['alpha']:g}"]
    if "codebook" in options and about["kind"] != "segmentation":
        told.append(f"a codebook of {options['codebook']} table(s)")
    told += [f"{name} {value}" for name, value in options.get("maps", {}).items()]
    return ", ".join(told)
