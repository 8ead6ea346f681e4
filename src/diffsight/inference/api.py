"""``diffsight.evaluate``: score a model on a data set or on a folder of labelled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight import hub
from diffsight.datasets.base import AbstractDataset
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
            reads.
        dataset: labelled samples.
        protocol: evaluation protocol or its name; default: the metric of the model's task over all
            labelled pixels.
        plan: how the model is run on an image; default: in one pass at the size of the training
            images.
        unit: unit of the label files, as for ``adapt``.
        invalid: value in the label files that means "no label", as for ``adapt``.
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
) -> LabelledFolder:
    """Return folders of images and labels as a data set, read as a model's task needs it.

    Args:
        model: model to evaluate.
        images: folder of images.
        labels: folder of label files with the names of the images.
        unit: unit of the label files, as for ``adapt``.
        invalid: value in the label files that means "no label", as for ``adapt``.

    Raises:
        InputError: if labels of the model's task cannot be read from files, or a file cannot be
            used.
    """
    task = model.task
    form = LabelFormat(model.info.get("kind") or _infer_label_kind(task), unit, invalid)
    like = None
    if task.class_names:
        colours = tuple(task.colours.values())
        like = LabelledFolder(form, (), ids=task.ids, names=task.class_names, colours=colours)
    return read_labelled_folder(Path(images), Path(labels), form, like=like)


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
