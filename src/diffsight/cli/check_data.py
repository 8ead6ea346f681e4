"""``diffsight check-data``: read a data set end to end."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.cli.console import progress, write_json
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.datasets.check import SplitReport

FOUND_WRONG = 1
LISTED = 5


@command("check-data")
def main(
    name: str,
    root: Path,
    *,
    split: Annotated[Sequence[str], Flag("NAME", repeat=True)] = (),
    json: bool = False,
) -> int:
    """Read a data set end to end: counts, labels, unreadable files, images shared by splits.

    The exit status is 1 if something looks wrong.

    Args:
        name: name of the data set: ade20k, nyu, kitti ... (docs/data.md).
        root: folder of the data set, laid out as in docs/data.md.
        split: read only this split, such as train or validation; may be repeated (default: all).

    Example:
        diffsight check-data nyu data/nyu_depth_v2 --split train
    """
    from dataclasses import asdict

    from diffsight.datasets.check import KNOWN, check
    from diffsight.hub.build import nearest

    if name not in KNOWN:
        raise InputError(f"unknown data set {name!r}{nearest(name, KNOWN)}")
    with progress(f"reading {name}") as advance:
        reports, overlap = check(
            name, root, splits=split, advance=lambda total: advance(total=total)
        )
    wrong = any(one.notes or one.unreadable for one in reports) or any(overlap.values())
    if json:
        report = {"splits": [asdict(one) for one in reports], "same_images": overlap}
        write_json(report, indent=1)
    else:
        for one in reports:
            sys.stdout.write(_text(one))
        for pair, count in overlap.items():
            sys.stdout.write(f"same images in {pair}: {count}\n")
    return FOUND_WRONG if wrong else 0


def _text(report: "SplitReport") -> str:
    labelled = f"{report.labelled:.1%} of {report.unit} labelled"
    lines = [f"{report.name}: {report.count:,} samples, {labelled}"]
    if report.depth_m is not None:
        low, median, high = report.depth_m
        lines.append(f"  depth from {low:.3g} to {high:.3g} m, median {median:.3g} m")
    total = report.pixels if report.unit == "cells" else sum(report.histogram.values())
    total = max(total, 1)
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
