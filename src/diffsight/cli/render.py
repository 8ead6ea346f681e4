"""``diffsight render``: write scenes of the procedural world as files, with a contact sheet."""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from diffsight.rooms.export import Export

SHEET_ROWS = 8
SHEET_PX = 192


def main(argv: Sequence[str]) -> int:
    """Run the command; scenes that exist are kept."""
    args = _parser().parse_args(argv)

    from rich.console import Console

    export = _export(args)
    export.prepare(args.out)
    console = Console(stderr=True)
    missing = [i for i in range(args.count) if not export.done(args.out, i)]
    with _progress(console) as bar:
        row = bar.add_task("rendering", total=args.count, completed=args.count - len(missing))
        for _ in _rendered(export, args.out, missing, args.workers, console):
            bar.advance(row)
    _write_sheet(export, args.out, min(args.count, SHEET_ROWS))
    sys.stdout.write(f"{args.count} scenes in {args.out}, contact sheet {args.out}/contact.png\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight render",
        description="Render furnished rooms with exact labels. It writes images/, a folder per "
        "label (depth/ in 16-bit millimetres), meta/ (camera, caption, expressions, people, units) "
        "and contact.png into DIR. An interrupted run is continued.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="number of scenes")
    parser.add_argument("--split", default="train", help="train, val or test (default: train)")
    parser.add_argument(
        "--size", default="128", metavar="S", help="pixels, or HEIGHTxWIDTH (default: 128)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes (default: 2)"
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="NAME", help="labels to write (default: all)"
    )
    return parser


def _export(args: argparse.Namespace) -> "Export":
    from diffsight.rooms import LABELS
    from diffsight.rooms.dataset import check_size, check_split
    from diffsight.rooms.export import Export
    from diffsight.rooms.labels import check_names

    for name in ("count", "workers"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: give a whole number of at least 1")
    sides = args.size.lower().split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) > 2:
        raise InputError(f"--size {args.size}: give one number or HEIGHTxWIDTH, such as 240x320")
    size = check_size(tuple(int(side) for side in (sides * 2)[:2]))
    labels = check_names(LABELS if args.labels is None else args.labels)
    return Export(check_split(args.split), args.seed, size, labels)


def _rendered(
    export: "Export", out: Path, indices: Sequence[int], workers: int, console: "Console"
) -> Iterator[int]:
    """Render the scenes, the first one here to estimate the time; yield after each."""
    if not indices:
        return
    start = time.monotonic()
    export.write(out, indices[0])
    seconds = time.monotonic() - start
    yield indices[0]
    rest = indices[1:]
    workers = min(workers, len(rest))
    if rest:
        about = seconds * len(rest) / workers
        console.print(f"about {about:.0f} s: {seconds:.2f} s a scene, {workers} processes")
    if workers < 2:
        for index in rest:
            export.write(out, index)
            yield index
        return
    # spawned, not forked: the parent has threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(export.write, out, index): index for index in rest}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _progress(console: "Console") -> "Progress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


def _write_sheet(export: "Export", out: Path, rows: int) -> None:
    """Write ``contact.png``: the first scenes with every label in colour."""
    import dataclasses

    from PIL import Image

    from diffsight.datasets.files import replacing
    from diffsight.rooms.pictures import contact_sheet

    longer = max(export.size)
    small = tuple(max(side * min(SHEET_PX, longer) // longer, 8) for side in export.size)
    small_export = dataclasses.replace(export, size=small)
    sheet = contact_sheet([small_export.render(i) for i in range(rows)])
    with replacing(out / "contact.png") as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
