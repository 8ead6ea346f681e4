"""Write the labels of a project as files that ``diffsight adapt`` reads, and its model."""

import io
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from diffsight import hub
from diffsight.atomic import staging
from diffsight.datasets.labels import NO_CLASS
from diffsight.datasets.write_labels import CLASSES_FILE, palette_picture
from diffsight.errors import InputError
from diffsight.methods.base import count_trainable_parameters
from diffsight.studio.images import list_photographs
from diffsight.studio.live import LiveModel
from diffsight.studio.log import write_synced
from diffsight.studio.project import Project

EXPORT, LABELS, MODEL, IMAGES = "export", "labels", "model.safetensors", "images.txt"


def export_project(project: Project, live: LiveModel | None, backbone: str) -> dict[str, Any]:
    """Write labels, the names of their images, the names of the classes, and the model.

    Files of an earlier export are replaced. Class labels are PNG files of palette indices, 255 is
    "no label". The labels of a scalar are NPY files of float32, NaN is "no label". Labels whose
    photograph is not in the folder are left out, because ``diffsight adapt`` would refuse them.

    Args:
        project: the labels.
        live: model; None if it was not trained yet.
        backbone: name of the frozen backbone.

    Returns:
        Paths of the folder and of the model, the number of labels, which photographs are missing,
        and the command that trains a compared and calibrated model on the labels, as plain data.

    Raises:
        InputError: if there are no labels, the folder cannot be used (see ``list_photographs``), or
            the files cannot be written.
    """
    out = project.work / EXPORT
    labelled = sorted(project.label_versions())
    if not labelled:
        raise InputError("nothing to export: paint labels on an image first")
    present = set(list_photographs(project.folder, project.work))
    numbers = [i for i in labelled if project.photograph(i).name in present]
    missing = _describe_missing(project, set(labelled) - set(numbers))
    if not numbers:
        raise InputError(f"nothing to export: {missing}")
    try:
        out.mkdir(exist_ok=True)
        count = _write_labels(project, numbers, out)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}): choose a folder that exists, "
            "is writable and has space"
        ) from error
    model: Path | None = None
    if live is not None:
        model = hub.save(live.model, out / MODEL, info=_facts(project, live, backbone))
    else:
        (out / MODEL).unlink(missing_ok=True)  # of an earlier export, with other labels
    return {
        "folder": str(out),
        "labels": count,
        "missing": missing,
        "model": None if model is None else str(model),
        "command": _command(project, out),
    }


def _write_labels(project: Project, numbers: list[int], out: Path) -> int:
    """Write the labels to a new folder, which replaces that of an earlier export.

    Returns:
        The number of images with labels; those whose labels were all erased are left out.

    Raises:
        InputError: if there is none.
    """
    names = []
    labels = out / LABELS
    suffix = ".png" if project.kind == "segmentation" else ".npy"
    with staging(labels) as scratch:
        for number in numbers:
            width, height = project.photograph(number).size
            drawn = project.labels(number, (height, width))
            if drawn.is_empty:
                continue
            names.append(project.photograph(number).name)
            path = (scratch / names[-1]).with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".png":
                ids = np.where(drawn.is_labelled, drawn.values, NO_CLASS).astype(np.uint8)
                path.write_bytes(_palette_png(project, ids))
            else:
                np.save(path, np.where(drawn.is_labelled, drawn.values, np.float32(np.nan)))
        if not names:
            raise InputError("nothing to export: all labels were erased; paint some first")
        with staging(labels) as old:
            if labels.exists():
                labels.rename(old / LABELS)
            scratch.rename(labels)
            scratch.mkdir()  # which ``staging`` removes
    listed = "".join(f"{name}\n" for name in names)
    write_synced(out / IMAGES, listed.encode(errors="surrogateescape"))  # as on the disk
    if project.kind == "segmentation":
        rows = ["id, name", *(f"{one.id}, {one.name}" for one in project.classes)]
        write_synced(out / CLASSES_FILE, "\n".join([*rows, ""]).encode())
    else:
        (out / CLASSES_FILE).unlink(missing_ok=True)
    return len(names)


def _palette_png(project: Project, ids: np.ndarray) -> bytes:
    """Return a PNG file of class ids with the colours of the classes."""
    stream = io.BytesIO()
    picture = palette_picture(ids, {one.id: one.rgb for one in project.classes})
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _describe_missing(project: Project, numbers: Collection[int]) -> str:
    """Return a line on labelled images whose files are missing; empty if there are none."""
    if not numbers:
        return ""
    first = project.photograph(min(numbers)).name
    return (
        f"{len(numbers)} labelled image(s) are missing, such as {first}: put them back under their "
        "old names to use their labels"
    )


def _facts(project: Project, live: LiveModel, backbone: str) -> dict[str, Any]:
    """Return facts about the model that are saved with it."""
    facts: dict[str, Any] = {"kind": project.kind, "unit": project.unit, "backbone": backbone}
    facts |= {"chosen": "feature_head", "steps": {"feature_head": live.total}, "seed": 0}
    facts["learned_parameters"] = count_trainable_parameters(live.model.method)
    if project.scores:
        last = project.scores[-1]
        facts |= {"held_out": {"feature_head": last.score}, "metric": last.metric}
        facts["held_out_images"] = last.labelled_images
    return facts


def _command(project: Project, out: Path) -> str:
    """Return the command that compares methods on these labels and calibrates the best one."""
    arguments = ["diffsight", "adapt", "--images", str(project.folder), "--labels"]
    arguments += [str(out / LABELS), "--kind", project.kind]
    if project.kind == "segmentation":
        arguments += ["--classes", str(out / CLASSES_FILE)]
    elif project.unit:
        arguments += ["--unit", project.unit]
    return shlex.join([*arguments, "--out", "model.safetensors"])
