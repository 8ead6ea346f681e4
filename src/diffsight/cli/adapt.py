"""``diffsight adapt``: a new dense task from a few labelled images."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.cli.options import add_device, device_of
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.adaptation.selection import Progress
    from diffsight.datasets.labelled_folder import Support
    from diffsight.hub.task_file import Base
    from diffsight.tasks.dense import AbstractDense

BINS = 10  # of the histogram that is shown
BLOCKS = " ▁▂▃▄▅▆▇█"
log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    state = args.out.parent / f"{args.out.name}.resume"
    _check_out(args.out, args.overwrite or args.resume, state.exists() and not args.resume)

    import torch
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from diffsight.adaptation.adapt import adapt
    from diffsight.cli.show import describe

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        row, under_way = None, ""

        def advance(progress: "Progress") -> None:
            nonlocal row, under_way
            if progress.run != under_way and not console.is_terminal:
                log.info("%3.0f %%  %s", 100 * progress.share, progress.run)
            under_way = progress.run
            row = bars.add_task("", total=1.0) if row is None else row
            bars.update(row, description=under_way, completed=progress.share)

        task = adapt(
            args.images,
            args.labels,
            kind=args.kind,
            unit=args.unit,
            classes=_names(args.classes),
            invalid=args.invalid,
            shots=args.shots,
            backbone=args.backbone,
            method=args.method,
            minutes=args.minutes,
            steps=args.steps,
            validation=_validation(args.validation),
            bins=args.bins,
            spacing=args.spacing,
            alpha=args.alpha,
            short_side=args.short_side,
            codebook=args.codebook,
            clip=args.clip,
            mirror=args.mirror,
            seed=args.seed,
            device=device_of(args),
            autocast=torch.bfloat16 if args.dtype == "bfloat16" else None,
            state=state,
            resume=args.resume,
            announce=_announce,
            advance=advance,
        )
    task.save(args.out)
    if not task.about["report"]["interrupted"]:
        state.unlink(missing_ok=True)
    sys.stdout.write(describe(task.about, args.out) + "\n")
    return 0


def _validation(paths: Sequence[Path] | None) -> tuple[Path, Path] | None:
    if paths is None:
        return None
    if len(paths) > 2:
        raise InputError(f"--validation: {len(paths)} folders: give DIR, or IMAGES and LABELS")
    images, labels = paths if len(paths) == 2 else (paths[0] / "images", paths[0] / "labels")
    return images, labels


def _announce(support: "Support", task: "AbstractDense", base: "Base") -> None:
    """What was read, before anything is done with it."""
    examples = support.examples
    valid = sum(float(e.valid.float().mean()) for e in examples) / len(examples)
    sizes = sorted({f"{e.valid.shape[1]} x {e.valid.shape[0]}" for e in examples})
    shown = ", ".join(sizes[:3]) + (" ..." if len(sizes) > 3 else "")
    log.info(
        "%d images (%s), %.1f %% of their pixels have a label", len(examples), shown, 100 * valid
    )
    for line in _values(support):
        log.info("%s", line)
    log.info("%d classes on %s", task.num_outputs, base.source)


def _values(support: "Support") -> list[str]:
    values = support.values()
    if support.ids:
        counts = values[:, 0].long().bincount(minlength=len(support.ids)).double()
        form = "#{:06x}" if support.ids_are_colours else "id {}"
        return [
            f"  {name} ({form.format(number)}): {100 * float(count / counts.sum()):.1f} %"
            for name, number, count in zip(support.names, support.ids, counts, strict=True)
        ]
    lines = []
    for channel in values.T:
        low, high = float(channel.min()), float(channel.max())
        bars = channel.float().histc(BINS, low, high)
        drawn = "".join(BLOCKS[round(float(x))] for x in (bars / bars.max() * 8))
        lines.append(f"  {low:.4g} to {high:.4g} {support.form.value_unit}  |{drawn}|")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight adapt",
        description="Learn a dense task from a few labelled images: images and labels of the same "
        "names in two folders.",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="PNG or NPY")
    parser.add_argument(
        "--kind",
        required=True,
        choices=("segmentation", "depth", "scalar", "normals", "vector"),
        help="classes; metres; numbers; RGB as unit vectors; RGB or NPY as numbers",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the task file")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
    group = parser.add_argument_group("labels")
    group.add_argument("--unit", help="of one stored count: mm, m, m/256; for a scalar K or K/100")
    group.add_argument("--invalid", type=float, metavar="N", help="the count for 'no label'")
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="a name per line, for id 0, 1 ...; of masks in colours for every one that occurs, in "
        "ascending order (#0000ff before #00c800 before #ff0000)",
    )
    group.add_argument("--shots", type=int, metavar="N", help="use only so many images")
    group.add_argument(
        "--validation",
        type=Path,
        nargs="+",
        metavar=("IMAGES", "LABELS"),
        help="score on these instead of folds of the images; or one DIR with images/ and labels/",
    )
    group = parser.add_argument_group("method")
    group.add_argument(
        "--backbone",
        default="tiny",
        metavar="tiny|DIR|ID",
        help="the frozen model (default tiny)",
    )
    group.add_argument(
        "--method",
        choices=("auto", "concepts", "features"),
        default="auto",
        help="concepts: the paper's; features: a light head; auto: the better one (default)",
    )
    group.add_argument("--minutes", type=float, default=5.0, help="time to take (default 5)")
    group.add_argument("--steps", type=int, metavar="N", help="of every training, instead")
    group.add_argument("--bins", type=int, metavar="N", help="classes for numbers")
    group.add_argument(
        "--spacing",
        choices=("log", "log1p", "linear", "quantile"),
        help="of the bins (default: log for depth, log1p for a scalar)",
    )
    group.add_argument("--alpha", type=float, default=1.0, help="weight of the squared error")
    group.add_argument("--short-side", type=int, metavar="PX", help="working size of images")
    group.add_argument(
        "--codebook",
        type=int,
        metavar="K",
        help="tables (default 10, or 1 where no CLIP vision model can mix them)",
    )
    group.add_argument("--clip", metavar="DIR", help="CLIP vision model for the codebook")
    group.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="learn from mirrored images too (default: except for --kind vector)",
    )
    group.add_argument("--seed", type=int, default=0)
    add_device(group)
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="mixed precision (default float32: none)",
    )
    return parser


def _names(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of names ({error})") from None
    names = tuple(line.strip() for line in lines)
    if not names:
        raise InputError(f"{path}: holds no name: write one per line")
    if "" in names:
        raise InputError(
            f"{path}: line {names.index('') + 1} is empty: write a name for every id, from 0 on"
        )
    return names


def _check_out(out: Path, overwrite: bool, interrupted: bool) -> None:
    """Find out before the training, not after."""
    if out.is_dir():
        raise InputError(f"{out}: is a folder: --out is a file, such as mine.task")
    if interrupted and not overwrite:
        raise InputError(
            f"{out}: its adaptation was interrupted: go on with --resume, or start anew with "
            "--overwrite"
        )
    if out.exists() and not overwrite:
        raise InputError(f"{out}: is there already: give another --out, or --overwrite")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out}: cannot be written ({reason}): choose another --out") from None
