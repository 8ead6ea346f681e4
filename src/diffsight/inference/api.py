"""``diffsight.evaluate``: score a model on a data set or on a folder of labelled images."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight import hub
from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.class_lists import ClassList, read_class_list
from diffsight.datasets.labelled_folder import LABEL_KEYS, LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.inference.baselines import compute_baselines
from diffsight.inference.evaluate import Evaluation, resolve_protocol
from diffsight.inference.evaluate import evaluate as evaluate_predictor
from diffsight.inference.pipeline import predictor_for
from diffsight.inference.plan import Plan
from diffsight.model import DenseModel
from diffsight.protocols import AbstractProtocol
from diffsight.tasks import AbstractTask


def evaluate(
    model: str | Path | DenseModel,
    *,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    dataset: AbstractDataset | None = None,
    protocol: str | AbstractProtocol | None = None,
    plan: Plan | None = None,
    unit: str | None = None,
    invalid: int | float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    backbone: str | Path | None = None,
    trusted: Sequence[str] = (),
    **options: Any,
) -> Evaluation:
    """Return the scores of a model and of its baselines.

    Args:
        model: a saved model (folder or file), a Hugging Face hub id, or a model.
        images: folder of images; give ``labels`` with it, or ``dataset`` instead of both.
        labels: folder of label files with the names of the images, in a format that ``adapt``
            reads. ``open_labelled_folder`` has further options for class masks.
        dataset: labelled samples.
        protocol: evaluation protocol or its name; default: the metric of the model's task over all
            labelled pixels.
        plan: how the model is run on an image; default: in one pass at the size of the training
            images.
        unit: unit of the label files, as for ``adapt``; default: that of the training labels.
        invalid: value in the label files that means "no label", as for ``adapt``; default: that of
            the training labels.
        device: device to run on; default: the GPU if there is one.
        dtype: dtype of mixed precision, ``bfloat16`` or ``float16``, as a string or a
            ``torch.dtype``; default: the precision of the weights.
        backbone: folder or hub id of the frozen backbone, if it has moved since the model was
            saved.
        trusted: packages besides diffsight whose classes a saved model may use.
        options: fields of the plan to change, such as ``short_side=480, flip=True``; see
            ``plan_with``.

    Raises:
        InputError: if model, labels and protocol do not fit together, or the plan or the device
            cannot be used.
    """
    if not isinstance(model, DenseModel):
        model = hub.load(model, backbone=backbone, trusted=trusted)
    if dataset is None:
        if images is None or labels is None:
            raise InputError("no data to evaluate on: give images and labels, or dataset")
        dataset = open_labelled_folder(model, images, labels, unit=unit, invalid=invalid)
    elif images is not None or labels is not None:
        raise InputError("two sources of data: give images and labels, or dataset, not both")
    if isinstance(protocol, str):
        protocol = resolve_protocol(protocol, model)
    predictor = predictor_for(model, plan, options, device=device, dtype=dtype)
    baselines = model.baselines or compute_oracle_baselines(dataset, model.task)
    return evaluate_predictor(predictor, dataset, protocol, baselines=baselines)


def open_labelled_folder(
    model: DenseModel,
    images: str | Path,
    labels: str | Path,
    *,
    unit: str | None = None,
    invalid: int | float | None = None,
    snap: bool = False,
    classes: Sequence[str] | ClassList | str | Path = (),
) -> LabelledFolder:
    """Return folders of images and labels as a data set, read as a model's task needs it.

    ``notes`` of the data set say how the labels were read.

    Args:
        model: model to evaluate.
        images: folder of images.
        labels: folder of label files with the names of the images.
        unit: unit of the label files, as for ``adapt``; default: that of the training labels.
        invalid: value in the label files that means "no label", as for ``adapt``; default: that of
            the training labels.
        snap: take the nearest class value in smoothed or compressed masks, as for ``adapt``.
        classes: class names in the label files, as for ``adapt``, which are matched with the
            classes of the model by name.

    Raises:
        InputError: if labels of the model's task cannot be read from files, a file cannot be used,
            or the labels of a scalar have another unit than the model.
    """
    task, trained = model.task, _training_format(model)
    if trained.kind != "segmentation":
        if classes:
            raise InputError(f"labels of kind {trained.kind} have no classes: leave them out")
        trained = replace(trained, snap=snap)
        return _open_numbers(model, Path(images), Path(labels), trained, unit, invalid)
    form = LabelFormat(trained.kind, unit, invalid, snap)
    colours = tuple(task.colours.values())
    like = LabelledFolder(trained, (), ids=task.ids, names=task.class_names, colours=colours)
    names = read_class_list(Path(classes)) if isinstance(classes, str | Path) else classes
    return read_labelled_folder(Path(images), Path(labels), form, classes=names, like=like)


def _open_numbers(
    model: DenseModel,
    images: Path,
    labels: Path,
    trained: LabelFormat,
    unit: str | None,
    invalid: int | float | None,
) -> LabelledFolder:
    """Return labels that are not classes, with a note on how they were read.

    Args:
        model: model to evaluate.
        images: folder of images.
        labels: folder or file of the labels.
        trained: format of the training labels.
        unit: unit of the labels; None for that of the training labels.
        invalid: value that means "no label"; None for that of the training labels.

    Raises:
        InputError: if a file cannot be used, or the unit is not that of the model.
    """
    chosen = {"unit": unit, "invalid": invalid}
    given = {name: value for name, value in chosen.items() if value is not None}
    form = replace(trained, **given)
    own = model.info.get("unit") or form.value_unit
    if form.kind == "scalar" and own != form.value_unit:
        raise InputError(
            f"{labels}: labels in {form.value_unit}, but the model predicts {own}: give --unit "
            f"{own}, or --unit {own}/N for N counts per {own}"
        )
    folder = read_labelled_folder(images, labels, form)
    folder.notes = (*folder.notes, _describe_numbers(folder, given))
    return folder


def _describe_numbers(folder: LabelledFolder, given: Collection[str]) -> str:
    """Return a note with the range of the labels, and with the options that they were read with.

    Args:
        folder: labels that are not classes.
        given: names of the options that the user gave.
    """
    form, options = folder.form, list[str]()
    for name, value in (("unit", form.unit), ("invalid", form.invalid)):
        if value is not None:
            text = value if isinstance(value, str) else f"{value:g}"
            options.append(f"--{name} {text}" + ("" if name in given else " (as in training)"))
    if form.kind == "depth" and form.unit is None:
        options.insert(0, "the default unit (mm for whole numbers in images, else m)")
    values = [sample.labels[folder.label][:, sample.valid[folder.label]] for sample in folder]
    low = min(float(one.min()) for one in values)
    high = max(float(one.max()) for one in values)
    text = f"labels: {low:.4g} to {high:.4g} {form.value_unit}".rstrip()
    return f"{text}, read with {' and '.join(options)}" if options else text


def _training_format(model: DenseModel) -> LabelFormat:
    """Return the format of a model's training labels, as far as the model records it.

    Raises:
        InputError: if labels of the model's task cannot be read from files, or the record is not
            valid.
    """
    info = model.info
    unit, invalid = info.get("label_unit"), info.get("label_invalid")
    if not isinstance(unit, str | None) or type(invalid) not in (int, float, type(None)):
        raise InputError(
            "info.label_unit is no text, or info.label_invalid no number: delete them, and give "
            "--unit and --invalid"
        )
    return LabelFormat(info.get("kind") or _infer_label_kind(model.task), unit, invalid)


def _infer_label_kind(task: AbstractTask) -> str:
    """Return the kind of label files for a task, such as ``depth`` or ``segmentation``."""
    kinds = [kind for kind, label in LABEL_KEYS.items() if label == task.label]
    if not kinds:
        raise InputError(
            f"{type(task).__name__} has the label {task.label!r}, which cannot be read from a "
            "folder: give a data set"
        )
    is_vector = max(spec.channels for spec in task.outputs if spec.kind != "distribution") > 1
    return kinds[-1] if is_vector else kinds[0]


def compute_oracle_baselines(dataset: AbstractDataset, task: AbstractTask) -> dict[str, Tensor]:
    """Return baselines that are computed from the evaluated labels themselves.

    They replace those of the training labels for models that do not store any.

    Args:
        dataset: samples that are evaluated.
        task: task of the model.

    Returns:
        Label maps by name, each marked with ``(oracle)``.
    """
    baselines = compute_baselines(dataset, task)
    return {f"{name} (oracle)": label_map for name, label_map in baselines.items()}
