"""``diffsight adapt``: learn a new dense task from a few labelled images."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.adaptation.options import AdaptOptions
from diffsight.atomic import remove_leftovers_of
from diffsight.choices import LabelKind
from diffsight.cli import options
from diffsight.cli.console import console, progress
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.locks import claim_name

if TYPE_CHECKING:
    from diffsight.adaptation.adapt import Plan
    from diffsight.adaptation.selection import Progress
    from diffsight.datasets.labelled_folder import LabelledFolder

BINS = 10  # of the histogram that is shown
BLOCKS = " ▁▂▃▄▅▆▇█"
log = logging.getLogger(__name__)


@command("adapt", without=("maps", "state", "trusted"), claim=claim_name)
def main(
    *,
    images: options.Folder,
    labels: Annotated[Path, Flag("DIR|FILE")],
    kind: LabelKind,
    out: Annotated[Path, Flag("NAME")],
    overwrite: bool = False,
    resume: bool = False,
    classes: options.File | None = None,
    validation: Annotated[Sequence[Path] | None, Flag(("IMAGES", "LABELS"))] = None,
    method: Annotated[str, Flag("NAME")] = "auto",
    backbone: Annotated[str, Flag("NAMES")] = "auto",
    training: partial[AdaptOptions],
    runtime: options.RuntimeOptions,
) -> int:
    """Learn a dense task from a few labelled images.

    Images and labels are files of the same names in two folders.

    Args:
        images: folder of the images.
        labels: folder of the labels: masks (PNG, TIFF, NPY ...) or files of labelme; or a JSON
            file of COCO (outlines or boxes); or a CSV file of points (docs/adapt.md).
        kind: what the labels are: classes, metres, numbers, RGB as unit vectors, or RGB / NPY as
            numbers.
        out: the model to write: one file, such as mine.safetensors, or a folder.
        overwrite: replace a model of that name (default: refuse).
        resume: continue an adaptation that was interrupted.
        classes: text file with a name per line, for id 0, 1 ...; of masks in colours for every one
            that occurs, in ascending order (#0000ff before #00c800 before #ff0000); or lines of
            'id, name' or 'name,red,green,blue', or labelmap.txt of CVAT.
        validation: folders of held-out images and labels, or one folder with images/ and labels/
            (default: folds of the images).
        method: few_shot (the paper's), feature_head (a light head), linear_probe, vpd, evp,
            meta_prompts, a class of your own (package.Class), or several with commas, of which the
            best on held-out images is trained on all; auto is feature_head,few_shot. Options
            follow a name, as in few_shot:codebook=5:max_steps=500 (docs/adapt.md).
        backbone: frozen models with commas, each of which is tried: tiny, efficientnet-lite0,
            dinov2-small, a folder or a hub id; NAME@256 sees images of 256 pixels, A+B joins the
            features of two; auto is tiny, and efficientnet-lite0 at 128 and at 256 pixels and
            joined.
        training: how labels are read, and how methods are trained.
        runtime: what it runs on.

    Example:
        diffsight adapt --images photos --labels masks --kind segmentation --out mine.safetensors
    """
    state = out.parent / f"{out.name}.resume"
    remove_leftovers_of(state)
    _check_out(out, overwrite or resume, state.exists() and not resume)

    from diffsight import hub
    from diffsight.adaptation.adapt import adapt
    from diffsight.adaptation.candidates import split_specs
    from diffsight.cli.show import describe
    from diffsight.datasets.class_lists import read_class_list

    with _progress() as advance:
        model = adapt(
            images,
            labels,
            kind=kind,
            method=method,
            backbone=backbone,
            classes=() if classes is None else read_class_list(classes),
            validation=_validation(validation),
            **training.keywords,
            device=options.device_of(runtime.device),
            dtype=options.dtype_of(runtime.dtype),
            trusted=runtime.trusted(split_specs(method)),
            state=state,
            resume=resume,
            announce=_announce,
            advance=advance,
        )
    hub.save(model, out)
    if not model.info["interrupted"]:
        state.unlink(missing_ok=True)
    sys.stdout.write(describe(hub.read_config(out), str(out)) + "\n")
    return 0


@contextlib.contextmanager
def _progress() -> "Iterator[Callable[[Progress], None]]":
    """Yield what is called after every step: it moves a bar, or logs a line per training."""
    current, begin = "", time.monotonic()
    with progress("", 1.0, counts=False) as update:

        def advance(progress: "Progress") -> None:
            nonlocal current
            if progress.run != current and not console().is_terminal:
                rest = (1 - progress.fraction) / max(progress.fraction, 1e-9)
                left = (time.monotonic() - begin) * rest
                known = f"  (about {left:.0f} s left)" if current else ""  # not of the first step
                log.info("%3.0f %%  %s%s", 100 * progress.fraction, progress.run, known)
            current = progress.run
            update(0, description=current, completed=progress.fraction)

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
    percent = f"{100 * valid:.1f}" if valid > 0.01 else f"{100 * valid:.2g}"  # of points, few
    log.info("%d images (%s), %s %% of their pixels have a label", len(masks), shown, percent)
    for line in (*folder.notes, *_values(folder)):
        log.info("%s", line)
    log.info("%s", plan.task.outputs[0].describe())
    for source in dict.fromkeys(pair.source for pair in plan.candidates):
        trained = f", trained on {source.training_images}" if source.training_images else ""
        log.info("backbone %s%s", source, trained)


def _values(folder: "LabelledFolder") -> list[str]:
    """Return a line per class with its fraction, or a histogram per channel."""
    values = folder.values()
    if folder.ids:
        counts = values[:, 0].long().bincount(minlength=len(folder.ids)).double()
        form = "#{:06x}" if folder.ids_are_colours else "id {}"
        return [
            f"  {name} ({form.format(number)}): {100 * float(count / counts.sum().clamp(1)):.1f} %"
            for name, number, count in zip(folder.names, folder.ids, counts, strict=True)
        ]
    lines = []
    for channel in values.T:
        low, high = float(channel.min()), float(channel.max())
        bars = channel.float().histc(BINS, low, high)
        drawn = "".join(BLOCKS[round(float(x))] for x in (bars / bars.max() * 8))
        lines.append(f"  {low:.4g} to {high:.4g} {folder.form.value_unit}  |{drawn}|")
    return lines


def _check_out(out: Path, overwrite: bool, interrupted: bool) -> None:
    """Refuse a name that cannot be written, before the training."""
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
