"""``diffsight check-data``: read a whole data set and report problems."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.cli.console import progress, write_json
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError, suggest

if TYPE_CHECKING:
    from diffsight.datasets.check import SplitReport

HAS_PROBLEMS = 1  # exit status
MAX_LISTED = 5  # unreadable samples in the text report


@command("check-data")
def main(
    name: str,
    root: Path,
    *,
    split: Annotated[Sequence[str], Flag("NAME", repeatable=True)] = (),
    json: bool = False,
) -> int:
    """Read a whole data set and report problems.

    The report has the number of samples, the distribution of the labels, files that cannot be read,
    and the number of images that occur in two splits. The exit status is 1 if there are problems.

    Args:
        name: name of the data set: ade20k, nyu, kitti ... (docs/data.md lists all).
        root: folder of the data set, with the layout of docs/data.md.
        split: split to read, such as train or validation; repeat the option for several splits
            (default: all).
        json: print the report as JSON, with all unreadable files.

    Example:
        diffsight check-data nyu data/nyu_depth_v2 --split train
    """
    from dataclasses import asdict

    from diffsight.datasets.check import CHECKABLE_DATASETS, check

    if name not in CHECKABLE_DATASETS:
        raise InputError(f"unknown data set {name!r}: {suggest(name, CHECKABLE_DATASETS)}")
    with progress(f"reading {name}") as advance:
        reports, overlap = check(
            name, root, splits=split, advance=lambda total: advance(total=total)
        )
    has_problems = any(one.notes or one.unreadable for one in reports) or any(overlap.values())
    if json:
        report = {"splits": [asdict(one) for one in reports], "same_images": overlap}
        write_json(report, indent=1)
    else:
        for one in reports:
            sys.stdout.write(_format_report(one))
        for pair, count in overlap.items():
            sys.stdout.write(f"same images in {pair}: {count}\n")
    return HAS_PROBLEMS if has_problems else 0


def _format_report(report: "SplitReport") -> str:
    labelled = f"{report.labelled:.1%} of {report.unit} labelled"
    lines = [f"{report.name}: {report.count:,} samples, {labelled}"]
    if report.depth_m is not None:
        low, median, high = report.depth_m
        lines.append(f"  depth from {low:.3g} to {high:.3g} m, median {median:.3g} m")
    total = report.pixels if report.unit == "cells" else sum(report.histogram.values())
    total = max(total, 1)
    ranked = sorted(report.histogram.items(), key=lambda pair: -pair[1])
    lines += [f"  {count / total:6.1%} {name}" for name, count in ranked if count]
    absent = [name for name, count in ranked if not count]
    if absent:
        lines.append(f"  absent: {', '.join(absent)}")
    lines += [f"  note: {note}" for note in report.notes]
    if report.unreadable:
        lines.append(f"  {len(report.unreadable)} cannot be used:")
        lines += [f"    {line}" for line in report.unreadable[:MAX_LISTED]]
        if len(report.unreadable) > MAX_LISTED:
            more = len(report.unreadable) - MAX_LISTED
            lines.append(f"    ... and {more} more (--json lists all)")
    return "\n".join(lines) + "\n"
