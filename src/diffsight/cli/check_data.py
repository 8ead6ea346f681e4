"""Read a data set end to end: counts, labels, unreadable files, images shared by splits."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.datasets.check import SplitReport

FOUND_WRONG = 1
LISTED = 5


def main(argv: Sequence[str]) -> int:
    """Run the command; status 1 if something looks wrong."""
    parser = argparse.ArgumentParser(prog="diffsight check-data", description=__doc__)
    parser.add_argument("name", help="name of the data set: ade20k, nyu, kitti ... (docs/data.md)")
    parser.add_argument(
        "root", type=Path, help="folder of the data set, laid out as in docs/data.md"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from diffsight.datasets.check import KNOWN, check
    from diffsight.hub.build import nearest

    if args.name not in KNOWN:
        near = nearest(args.name, KNOWN)
        raise InputError(f"unknown data set {args.name!r}: did you mean {near!r}?")
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(f"reading {args.name}", total=None)
        reports, overlap = check(
            args.name, args.root, advance=lambda total: bar.update(row, advance=1, total=total)
        )
    wrong = any(one.notes or one.unreadable for one in reports) or any(overlap.values())
    if args.json:
        report = {"splits": [asdict(one) for one in reports], "same_images": overlap}
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        for one in reports:
            sys.stdout.write(_text(one))
        for pair, count in overlap.items():
            sys.stdout.write(f"same images in {pair}: {count}\n")
    return FOUND_WRONG if wrong else 0


def _text(report: "SplitReport") -> str:
    lines = [f"{report.name}: {report.count:,} samples, {report.labelled:.1%} of pixels labelled"]
    if report.depth_m is not None:
        low, median, high = report.depth_m
        lines.append(f"  depth from {low:.3g} to {high:.3g} m, median {median:.3g} m")
    total = max(sum(report.histogram.values()), 1)
    ranked = sorted(report.histogram.items(), key=lambda pair: -pair[1])
    lines += [f"  {share / total:6.1%} {name}" for name, share in ranked if share]
    absent = [name for name, share in ranked if not share]
    if absent:
        lines.append(f"  nowhere: {', '.join(absent)}")
    lines += [f"  note: {note}" for note in report.notes]
    if report.unreadable:
        lines.append(f"  {len(report.unreadable)} cannot be used:")
        lines += [f"    {line}" for line in report.unreadable[:LISTED]]
        if len(report.unreadable) > LISTED:
            more = len(report.unreadable) - LISTED
            lines.append(f"    ... and {more} more (--json lists all)")
    return "\n".join(lines) + "\n"
