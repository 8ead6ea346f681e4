"""``diffsight adapt``: learn a new dense task from a few labelled images."""

import argparse
import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.cli.options import (
    TRAINING_DTYPES,
    add_device,
    add_dtype,
    add_steps_and_side,
    add_trust,
    device_of,
    dtype_of,
)
from diffsight.errors import InputError
from diffsight.formats.text import read_lines

if TYPE_CHECKING:
    from diffsight.adaptation.adapt import Plan
    from diffsight.adaptation.selection import Progress
    from diffsight.datasets.labelled_folder import LabelledFolder

BINS = 10  # of the histogram that is shown
BLOCKS = " ▁▂▃▄▅▆▇█"
log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    state = args.out.parent / f"{args.out.name}.resume"
    _check_out(args.out, args.overwrite or args.resume, state.exists() and not args.resume)

    from diffsight import hub
    from diffsight.adaptation.adapt import adapt
    from diffsight.cli.recipe import package_of
    from diffsight.cli.show import describe

    # a class that is typed on the command line is trusted
    typed = (package for name in args.method.split(",") for package in package_of(name.strip()))
    with _progress() as advance:
        model = adapt(
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
            dtype=dtype_of(args),
            state=state,
            resume=args.resume,
            trusted=(*args.trust, *typed),
            announce=_announce,
            advance=advance,
        )
    hub.save(model, args.out)
    if not model.info["interrupted"]:
        state.unlink(missing_ok=True)
    sys.stdout.write(describe(hub.read_config(args.out), str(args.out)) + "\n")
    return 0


@contextlib.contextmanager
def _progress() -> "Iterator[Callable[[Progress], None]]":
    """Yield what is called after every step: it moves a bar, or logs a line per training."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        row, current = None, ""

        def advance(progress: "Progress") -> None:
            nonlocal row, current
            if progress.run != current and not console.is_terminal:
                log.info("%3.0f %%  %s", 100 * progress.fraction, progress.run)
            current = progress.run
            row = bars.add_task("", total=1.0) if row is None else row
            bars.update(row, description=current, completed=progress.fraction)

        yield advance


def _validation(paths: Sequence[Path] | None) -> tuple[Path, Path] | None:
    if paths is None:
        return None
    if len(paths) > 2:
        raise InputError(f"--validation: {len(paths)} folders: give DIR, or IMAGES and LABELS")
    images, labels = paths if len(paths) == 2 else (paths[0] / "images", paths[0] / "labels")
    return images, labels


def _announce(plan: "Plan") -> None:
    """Log what was read, before anything is computed."""
    folder = plan.folder
    masks = [sample.valid[folder.label] for sample in folder.samples]
    valid = sum(float(mask.float().mean()) for mask in masks) / len(masks)
    sizes = sorted({f"{mask.shape[1]} x {mask.shape[0]}" for mask in masks})
    shown = ", ".join(sizes[:3]) + (" ..." if len(sizes) > 3 else "")
    log.info("%d images (%s), %.1f %% of their pixels have a label", len(masks), shown, 100 * valid)
    for line in _values(folder):
        log.info("%s", line)
    log.info("%s on %s", plan.task.outputs[0].describe(), plan.backbone.name)


def _values(folder: "LabelledFolder") -> list[str]:
    """Return a line per class with its fraction, or a histogram per channel."""
    values = folder.values()
    if folder.ids:
        counts = values[:, 0].long().bincount(minlength=len(folder.ids)).double()
        form = "#{:06x}" if folder.ids_are_colours else "id {}"
        return [
            f"  {name} ({form.format(number)}): {100 * float(count / counts.sum()):.1f} %"
            for name, number, count in zip(folder.names, folder.ids, counts, strict=True)
        ]
    lines = []
    for channel in values.T:
        low, high = float(channel.min()), float(channel.max())
        bars = channel.float().histc(BINS, low, high)
        drawn = "".join(BLOCKS[round(float(x))] for x in (bars / bars.max() * 8))
        lines.append(f"  {low:.4g} to {high:.4g} {folder.form.value_unit}  |{drawn}|")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight adapt",
        description="Learn a dense task from a few labelled images. Images and labels are files "
        "of the same names in two folders.",
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of the images"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the labels: PNG, TIFF or NPY",
    )
    parser.add_argument(
        "--kind",
        required=True,
        choices=("segmentation", "depth", "scalar", "normals", "vector"),
        help="what the labels are: classes, metres, numbers, RGB as unit vectors, or RGB / NPY as "
        "numbers",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="NAME",
        help="the model to write: one file, such as mine.safetensors, or a folder",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model of that name (default: refuse)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an adaptation that was interrupted"
    )
    _add_label_options(parser)
    _add_method_options(parser)
    return parser


def _add_label_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--unit",
        help="unit of one stored count: mm, m, m/256 for depth, K or K/100 for a scalar (default: "
        "mm for whole numbers of depth, else the number itself)",
    )
    group.add_argument(
        "--invalid",
        type=float,
        metavar="N",
        help='stored count for "no label" (default: 0 for depth, 255 for class ids)',
    )
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="text file with a name per line, for id 0, 1 ...; of masks in colours for every one "
        "that occurs, in ascending order (#0000ff before #00c800 before #ff0000)",
    )
    group.add_argument("--shots", type=int, metavar="N", help="use only N images (default: all)")
    group.add_argument(
        "--validation",
        type=Path,
        nargs="+",
        metavar=("IMAGES", "LABELS"),
        help="folders of held-out images and labels, or one folder with images/ and labels/ "
        "(default: folds of the images)",
    )


def _add_method_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--backbone",
        default="tiny",
        metavar="tiny|DIR|ID",
        help="frozen model: the one of the package, a folder or a hub id (default: tiny)",
    )
    group.add_argument(
        "--method",
        default="auto",
        metavar="NAME",
        help="few_shot (the paper's), feature_head (a light head), linear_probe, vpd, evp, a class "
        "of your own (package.Class), or several with commas, of which the best on held-out "
        "images is trained on all; auto is feature_head,few_shot (default: auto)",
    )
    add_trust(group)
    _add_value_options(group)
    _add_training_options(group)


def _add_value_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options of methods for numbers."""
    group.add_argument(
        "--bins",
        type=int,
        metavar="N",
        help="classes that numbers are divided into (default: 50 for depth, 20 for a scalar, 40 "
        "for vectors)",
    )
    group.add_argument(
        "--spacing",
        choices=("log", "log1p", "linear", "quantile"),
        help="spacing of the bins (default: log for depth, log1p for a scalar)",
    )
    group.add_argument(
        "--alpha",
        type=float,
        default=1.0,
        metavar="FLOAT",
        help="weight of the squared error beside the cross-entropy (default: 1.0)",
    )
    group.add_argument(
        "--codebook",
        type=int,
        metavar="N",
        help="tables of the label codebook of few_shot; 0 keeps the values fixed (default: 10, or "
        "1 where no CLIP vision model can mix them)",
    )
    group.add_argument(
        "--clip",
        metavar="DIR|ID",
        help="CLIP vision model that mixes the tables (default: the backbone's, if it has one)",
    )


def _add_training_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        metavar="FLOAT",
        help="time for all trainings (default: 5)",
    )
    add_steps_and_side(group)
    group.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="train on mirrored images too (default: yes, except for --kind vector)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything random (default: 0)"
    )
    add_device(group)
    add_dtype(group, TRAINING_DTYPES)


def _names(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    line = "cannot be read as a list of names ({reason}): give a text file"
    names = tuple("\n".join(read_lines(path, line, "utf-8-sig")).rstrip().splitlines())
    if not names:
        raise InputError(f"{path}: holds no name: write one per line")
    if "" in names:
        raise InputError(
            f"{path}: line {names.index('') + 1} is empty: write a name for every id, from 0 on"
        )
    return names


def _check_out(out: Path, overwrite: bool, interrupted: bool) -> None:
    """Refuse a name that cannot be written, before the training."""
    if not out.name:
        raise InputError(f"{out}: names no model: give --out a name, such as mine.safetensors")
    if interrupted and not overwrite:
        raise InputError(
            f"{out}: its adaptation was interrupted: continue with --resume, or start anew with "
            "--overwrite"
        )
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already: give another --out, or --overwrite")
    if out.exists() and out.is_file() != (out.suffix == ".safetensors"):
        what = "a file" if out.is_file() else "a folder"
        raise InputError(
            f"{out}: is {what}, but a model is one file with a name in .safetensors, or a folder "
            "with another name: give another --out"
        )
    if out.is_dir() and not (out / "config.json").is_file() and any(out.iterdir()):
        raise InputError(f"{out}: is a folder that holds no model: give another --out")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out}: cannot be written ({reason}): choose another --out") from None
