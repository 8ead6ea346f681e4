"""``diffsight render``: render furnished rooms with exact labels, as files."""

import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.cli import options
from diffsight.cli.console import progress, write_line
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.locks import share_folder

if TYPE_CHECKING:
    from diffsight.rooms.export import Export

SHEET_ROWS = 8  # scenes in the contact sheet
SHEET_PX = 192  # longer side of its images at most


@command("render", claim=share_folder)
def main(
    *,
    out: options.Folder,
    count: int,
    split: str = "train",
    size: Annotated[str, Flag("S")] = "128",
    seed: int = 0,
    workers: int = 2,
    labels: Annotated[Sequence[str] | None, Flag("NAME")] = None,
) -> int:
    """Render furnished rooms with exact labels.

    The command writes images/, a folder per label (depth/ in 16-bit millimetres), classes.txt (the
    names of the class ids), meta/ (camera, caption, expressions, people, units) and contact.png, an
    overview. An interrupted run continues.

    Args:
        out: folder for the images and labels.
        count: number of scenes.
        split: train, val or test; different splits have different scenes.
        size: image size in pixels: one number for a square, or HEIGHTxWIDTH.
        seed: seed of the scenes.
        workers: number of processes.
        labels: names of the labels to write, such as depth_m (default: all).

    Example:
        diffsight render --count 20 --out rooms
    """
    from diffsight.rooms import LABELS
    from diffsight.rooms.dataset import check_split
    from diffsight.rooms.export import Export
    from diffsight.rooms.labels import check_names

    for name, value in (("count", count), ("workers", workers)):
        if value < 1:
            raise InputError(f"--{name} {value}: give a whole number of at least 1")
    names = check_names(LABELS if labels is None else labels)
    hw = _height_width(size, min(workers, count))
    export = Export(check_split(split), seed, hw, names)
    export.prepare(out)
    missing = [i for i in range(count) if not export.done(out, i)]
    with progress("rendering", count, done=count - len(missing)) as advance:
        for _ in _rendered(export, out, missing, workers):
            advance()
    _write_sheet(export, out, min(count, SHEET_ROWS))
    sys.stdout.write(f"{count} scenes in {out}, contact sheet {out}/contact.png\n")
    return 0


def _height_width(size: str, workers: int) -> tuple[int, int]:
    from diffsight.rooms.dataset import check_size

    sides = size.lower().split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) > 2:
        raise InputError(f"--size {size}: give one number or HEIGHTxWIDTH, such as 240x320")
    return check_size(tuple(int(side) for side in (sides * 2)[:2]), at_once=workers)


def _rendered(export: "Export", out: Path, indices: Sequence[int], workers: int) -> Iterator[int]:
    """Render the scenes and yield their indices; the first one gives the time estimate."""
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
        write_line(f"about {about:.0f} s: {seconds:.2f} s per scene, {workers} processes")
    if workers < 2:
        for index in rest:
            export.write(out, index)
            yield index
        return
    # spawn, because the parent process has threads
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


def _write_sheet(export: "Export", out: Path, rows: int) -> None:
    """Write ``contact.png``: the first scenes, with all labels in colour."""
    import dataclasses

    from PIL import Image

    from diffsight.atomic import replacing
    from diffsight.rooms.pictures import make_contact_sheet

    longer = max(export.size)
    small = tuple(max(side * min(SHEET_PX, longer) // longer, 8) for side in export.size)
    small_export = dataclasses.replace(export, size=small)
    sheet = make_contact_sheet([small_export.render(i) for i in range(rows)])
    with replacing(out / "contact.png") as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
