"""``diffsight.evaluate``: a model or a saved model on a data set or a folder of labelled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight import hub
from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.labelled_folder import LABELS, LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.inference.baselines import baselines_of
from diffsight.inference.evaluate import Evaluation, protocol_for
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
    dtype: torch.dtype | None = None,
    backbone: str | Path | None = None,
    trusted: Sequence[str] = (),
    **options: Any,
) -> Evaluation:
    """Return the scores of a model and of its baselines.

    Args:
        model: a saved model (folder or file), a Hugging Face hub id, or a model.
        images: folder of images; with ``labels``, in place of ``dataset``.
        labels: folder of labels with the same names, in the form that ``adapt`` reads.
        dataset: labelled samples.
        protocol: name or object; default: the metric of the model's task over all labelled pixels.
        plan: how images are run; default: once, at the size of the training images.
        unit: of the label files, as for ``adapt``.
        invalid: count in the label files that stands for "no label", as for ``adapt``.
        device: where to run; default: the GPU if there is one.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision.
        backbone: where the frozen part of the model is, if not where the file says.
        trusted: packages besides diffsight whose classes a saved model may name.
        options: of the plan, see ``plan_with``, such as ``short_side=480, flip=True``.

    Raises:
        InputError: if model, labels and protocol do not fit together, or the plan or the device
            cannot be used.
    """
    if not isinstance(model, DenseModel):
        model = hub.load(model, backbone=backbone, trusted=trusted)
    if dataset is None:
        if images is None or labels is None:
            raise InputError("there is nothing to evaluate on: give images and labels, or dataset")
        dataset = labelled_folder(model, images, labels, unit=unit, invalid=invalid)
    elif images is not None or labels is not None:
        raise InputError("give images and labels, or dataset, not both")
    if isinstance(protocol, str):
        protocol = protocol_for(protocol, model)
    predictor = predictor_for(model, plan, options, device=device, dtype=dtype)
    baselines = model.baselines or oracle_baselines(dataset, model.task)
    return evaluate_predictor(predictor, dataset, protocol, baselines=baselines)


def labelled_folder(
    model: DenseModel,
    images: str | Path,
    labels: str | Path,
    *,
    unit: str | None = None,
    invalid: int | float | None = None,
) -> LabelledFolder:
    """Return images and labels as a data set of the model's kind and with its classes.

    Raises:
        InputError: if there are no files for labels of the task, or they do not fit.
    """
    task = model.task
    form = LabelFormat(model.info.get("kind") or _kind_of(task), unit, invalid)
    like = None
    if task.class_names:
        like = LabelledFolder(form, (), ids=task.ids, names=task.class_names)
    return read_labelled_folder(Path(images), Path(labels), form, like=like)


def _kind_of(task: AbstractTask) -> str:
    """Return the kind of label files for a task; of values the one with as many channels."""
    kinds = [kind for kind, label in LABELS.items() if label == task.label]
    if not kinds:
        raise InputError(
            f"{type(task).__name__} learns {task.label!r}, which folders of labels do not hold: "
            "give a data set"
        )
    is_vector = max(spec.channels for spec in task.outputs if spec.kind != "distribution") > 1
    return kinds[-1] if is_vector else kinds[0]


def oracle_baselines(dataset: AbstractDataset, task: AbstractTask) -> dict[str, Tensor]:
    """Return baselines made of the evaluated labels themselves, for models without their own."""
    return {f"{name} (oracle)": one for name, one in baselines_of(dataset, task).items()}
