"""``diffsight adapt``: train a model for a new dense task on a few labelled images."""

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
from diffsight.cli.console import console, progress, write_line
from diffsight.cli.flags import Flag, command
from diffsight.errors import INTERRUPTED, InputError
from diffsight.locks import claim_name

if TYPE_CHECKING:
    from diffsight.adaptation.adapt import Plan
    from diffsight.adaptation.selection import Progress
    from diffsight.datasets.labelled_folder import LabelledFolder

BINS = 10  # of the histograms in the log
BLOCKS = " ▁▂▃▄▅▆▇█"
log = logging.getLogger(__name__)


@command("adapt", excluded=("maps", "state", "trusted"), claim=claim_name)
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
    """Train a model for a dense task on a few labelled images.

    An image and its label are files of the same name in two folders. The command compares methods
    and backbones on held-out images, trains the best combination on all images, and saves it. After
    Ctrl-C it saves the model that is trained so far, and the exit status is 130.

    Args:
        images: folder of the images.
        labels: folder of the label files (masks as PNG, TIFF, NPY ..., or labelme JSON), a COCO
            JSON file (outlines or boxes), or a CSV file of points (docs/adapt.md).
        kind: meaning of the labels. segmentation: class ids or colours; depth: distances; scalar:
            one number per pixel; normals: unit vectors as RGB; vector: several numbers per pixel,
            as RGB or NPY.
        out: model to write: a file that ends in .safetensors, or a folder.
        overwrite: replace an existing model (default: stop with an error).
        resume: continue an interrupted adaptation.
        classes: text file of class names: one name per line for the ids 0, 1 ...; 'id, name';
            'name,red,green,blue'; or labelmap.txt of CVAT. For masks in colours, one name per line
            belongs to the colours in ascending order (#0000ff, #00c800, #ff0000).
        validation: folders of held-out images and labels, or one folder with images/ and labels/
            (default: cross-validation on the images).
        method: method to train, or several separated by commas: few_shot (the paper's),
            feature_head (a small head on frozen features), linear_probe, vpd, evp, meta_prompts,
            ddp, small_unet, or a class of your own (package.Class). The best one on held-out images
            is trained on all images. auto is feature_head,few_shot. Options follow a name, as in
            few_shot:codebook=5:max_steps=500 (docs/adapt.md).
        backbone: frozen backbone, or several separated by commas, of which the best is chosen:
            tiny, efficientnet-lite0, dinov2-small, a folder or a hub id. NAME@256 resizes images to
            256 pixels; A+B concatenates the features of two. auto tries tiny,
            efficientnet-lite0@128, efficientnet-lite0@256, and the two efficientnet-lite0 together.
        training: reading of the labels, and training of the methods.
        runtime: device, dtype and trusted packages.

    Example:
        diffsight adapt --images photos --labels masks --kind segmentation --out mine.safetensors
    """
    state = out.parent / f"{out.name}.resume"
    remove_leftovers_of(state)
    remove_other_state(state, is_folder=False, overwrite=overwrite and not resume)
    check_out(out, overwrite or resume, state.exists() and not resume, noun="adaptation")

    from diffsight import hub
    from diffsight.adaptation.adapt import adapt
    from diffsight.adaptation.candidates import split_specs
    from diffsight.cli.show import describe

    last: list[Progress] = []
    with _progress(last) as advance:
        model = adapt(
            images,
            labels,
            kind=kind,
            method=method,
            backbone=backbone,
            classes=classes or (),
            validation=_validation(validation),
            **training.keywords,
            device=runtime.device,
            dtype=runtime.dtype,
            trusted=runtime.trusted(split_specs(method)),
            state=state,
            resume=resume,
            announce=_announce,
            advance=advance,
        )
    hub.save(model, out)
    is_interrupted = model.info["interrupted"]
    if not is_interrupted:
        state.unlink(missing_ok=True)
    sys.stdout.write(describe(hub.read_config(out), str(out)) + "\n")
    if is_interrupted:
        write_line(_describe_interruption(last))
    return INTERRUPTED if is_interrupted else 0


@contextlib.contextmanager
def _progress(last: "list[Progress]") -> "Iterator[Callable[[Progress], None]]":
    """Yield a callback for every step, which moves a bar, or logs a line per training.

    Args:
        last: list whose only element becomes the progress of the last step.
    """
    current, begin = "", time.monotonic()
    with progress("", 1.0, counts=False) as update:

        def advance(progress: "Progress") -> None:
            nonlocal current
            last[:] = [progress]
            if progress.run != current and not console().is_terminal:
                ratio = (1 - progress.fraction) / max(progress.fraction, 1e-9)
                left = (time.monotonic() - begin) * ratio
                # the first step is too short for an estimate
                estimate = f"  (about {left:.0f} s left)" if current else ""
                log.info("%3.0f %%  %s%s", 100 * progress.fraction, progress.run, estimate)
            current = progress.run
            update(0, description=current, completed=progress.fraction)

        yield advance


def _describe_interruption(last: "Sequence[Progress]") -> str:
    """Return a line with the finished steps of an interrupted training.

    Args:
        last: progress of the last step, if there was a step.
    """
    steps = [f" in {one.run}, after {one.step} of {one.steps} steps" for one in last]
    return f"interrupted{''.join(steps)}: the same command with --resume continues"


def _validation(paths: Sequence[Path] | None) -> tuple[Path, Path] | None:
    if paths is None:
        return None
    if len(paths) > 2:
        raise InputError(f"--validation: {len(paths)} folders: give DIR, or IMAGES and LABELS")
    images, labels = paths if len(paths) == 2 else (paths[0] / "images", paths[0] / "labels")
    return images, labels


def _announce(plan: "Plan") -> None:
    """Log the data, the task and the backbones before the training."""
    folder = plan.folder
    masks = [sample.valid[folder.label] for sample in folder.samples]
    valid = sum(float(mask.float().mean()) for mask in masks) / len(masks)
    sizes = sorted({f"{mask.shape[1]} x {mask.shape[0]}" for mask in masks})
    shown = ", ".join(sizes[:3]) + (" ..." if len(sizes) > 3 else "")
    # labelled points are few
    percent = f"{100 * valid:.1f}" if valid > 0.01 else f"{100 * valid:.2g}"
    log.info("%d images (%s), %s %% of their pixels have a label", len(masks), shown, percent)
    for line in (*folder.notes, *_values(folder)):
        log.info("%s", line)
    if plan.validation is not None:
        log.info("%d validation images", len(plan.validation))
        for line in plan.validation.notes:
            log.info("%s", line)
    log.info("%s", plan.task.outputs[0].describe())
    for source in dict.fromkeys(pair.source for pair in plan.candidates):
        trained = f", trained on {source.training_images}" if source.training_images else ""
        log.info("backbone %s%s", source, trained)


def _values(folder: "LabelledFolder") -> list[str]:
    """Return a line per class with its percentage of pixels, or a histogram per channel."""
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


def remove_other_state(state: Path, *, is_folder: bool, overwrite: bool) -> None:
    """Remove the state that the other command left: that of ``distil`` is a folder, else a file.

    Args:
        state: path of the state.
        is_folder: whether this command writes a folder.
        overwrite: whether the other state may be removed.

    Raises:
        InputError: if it may not be removed, or if it is a folder with other files.
    """
    if not state.exists() or state.is_dir() == is_folder:
        return
    command = "adapt" if is_folder else "distil"
    if not overwrite:
        raise InputError(
            f"{state}: belongs to an interrupted `diffsight {command}`: continue that with "
            "--resume, choose another --out, or remove it with --overwrite"
        )
    if is_folder:
        state.unlink()
        return
    from diffsight.adaptation.distil import remove_files

    remove_files(state)
    if state.exists():
        raise InputError(f"{state}: is a folder with other files: choose another --out")


def check_out(out: Path, overwrite: bool, interrupted: bool, *, noun: str) -> None:
    """Check that a model can be written; called before its training.

    Args:
        out: path of the model.
        overwrite: whether an existing model may be replaced.
        interrupted: whether an earlier training of this model was interrupted.
        noun: name of the training in the message.

    Raises:
        InputError: if it cannot be written.
    """
    if interrupted and not overwrite:
        raise InputError(
            f"{out}: its {noun} was interrupted: continue with --resume, or start again with "
            "--overwrite"
        )
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already: choose another --out, or give --overwrite")
    if out.exists() and out.is_file() != (out.suffix == ".safetensors"):
        form = "a file" if out.is_file() else "a folder"
        raise InputError(
            f"{out}: is {form}, but a model is a file that ends in .safetensors, or a folder "
            "with another ending: choose another --out"
        )
    if out.is_dir() and not (out / "config.json").is_file() and any(out.iterdir()):
        raise InputError(f"{out}: is a folder that holds no model: choose another --out")
