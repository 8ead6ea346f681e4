"""``diffsight.pipeline``: predict with a saved model on images of any type."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffsight import hub
from diffsight.datasets.rig_file import read_image_or_rig
from diffsight.datasets.rig_picture import draw_rig
from diffsight.errors import InputError, suggest
from diffsight.inference.inputs import to_people, to_tensor
from diffsight.inference.plan import Plan, short_side_px
from diffsight.inference.predictor import Predictor
from diffsight.inference.write import find_images
from diffsight.model import DenseModel
from diffsight.ops.device import mixed_dtype, usable_device
from diffsight.rig import Rig
from diffsight.tasks import Prediction

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor | Rig


def pipeline(
    model: str | Path | DenseModel,
    *,
    plan: Plan | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    backbone: str | Path | None = None,
    trusted: Sequence[str] = (),
    **options: Any,
) -> "Pipeline":
    """Return a callable that predicts on images of any type.

    Args:
        model: a saved model (folder or file), a Hugging Face hub id, or a model.
        plan: how the model is run on an image; default: in one pass at the size of the training
            images.
        device: device to run on; default: the GPU if there is one.
        dtype: dtype of mixed precision, ``bfloat16`` or ``float16``, as a string or a
            ``torch.dtype``; default: the precision of the weights.
        revision: branch, tag or commit on the hub.
        backbone: folder or hub id of the frozen backbone, if it has moved since the model was
            saved.
        trusted: packages besides diffsight whose classes a saved model may use.
        options: fields of the plan to change, such as ``short_side=480, flip=True``; see
            ``plan_with``.

    Raises:
        InputError: if the model cannot be loaded, or the plan or the device cannot be used.
    """
    if not isinstance(model, DenseModel):
        model = hub.load(model, revision=revision, backbone=backbone, trusted=trusted)
    return Pipeline(predictor_for(model, plan, options, device=device, dtype=dtype))


class Pipeline:
    """Predicts on images of any type; created by ``pipeline``.

    Attributes:
        predictor: predictor with the model and its plan.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __repr__(self) -> str:
        predictor = self.predictor
        task, method = (type(one).__name__ for one in (self.model.task, self.model.method))
        plan = predictor.plan.describe()
        return f"Pipeline(task={task}, method={method}, device={predictor.device}, plan={plan!r})"

    @property
    def model(self) -> DenseModel:
        """The model that predicts."""
        return self.predictor.model

    def with_confidence(self, confidence: float) -> "Pipeline":
        """Return a pipeline whose predictions have intervals or sets of classes.

        Its predictions are ``ConfidentPrediction`` objects.

        Args:
            confidence: expected fraction of the pixels of a new image whose true label is in the
                interval or set, such as 0.9.

        Raises:
            InputError: if the model has no calibration for this confidence.
        """
        predictor = self.predictor.with_plan(self.predictor.plan)
        predictor.use_confidence(confidence)
        return Pipeline(predictor)

    def __call__(
        self,
        images: Picture | Iterable[Picture],
        *,
        prompt: str | None = None,
        boxes: Any = None,
        plan: Plan | None = None,
        **options: Any,
    ) -> Any:
        """Return a prediction for one image, a list for several images, a generator for a stream.

        A prediction has the size of its image. A depth prediction has ``depth_m``, ``valid``,
        ``unit``, ``depth_type`` and, with several passes, ``uncertainty_m``.

        Args:
            images: One image: a path, the bytes of a file, a PIL image, an array ``h w 3`` or
                ``h w`` of uint8 (or ``h w 3`` of floats in [0, 1]), or a tensor ``3 h w`` of uint8
                or of floats in [0, 1]. For bird's-eye-view maps: a rig with one row, or the path of
                its JSON file.

                Several images, which return a list: a list or tuple, a batch (array ``b h w 3`` or
                tensor ``b 3 h w``), the path of a folder, or a pattern such as ``trip/*.jpg``.
                Folders and patterns are searched as in ``find_images``, in the order of the paths.

                A stream, which returns a generator: any other iterable, such as the frames of a
                video. A few images are read ahead.
            prompt: prompt for all images: a name of the model's text table (for depth the scene
                type), or a sentence for a model that reads sentences. None: the mean of the table.
            boxes: boxes of people for a model that predicts joints: for each image rows of left,
                top, right and bottom in pixels. None: each image shows one person.
            plan: plan for this call; default: the plan of the pipeline.
            options: fields of the plan to change for this call, see ``plan_with``.

        Raises:
            InputError: if an image, boxes or the plan cannot be used, or the model cannot use the
                prompt (it is unknown, missing, too long, or the model has no prompts).
        """
        model, predictor = self.model, self._predictor_with(plan, options)
        model.check_prompt(prompt)
        if boxes is not None and not model.task.has_regions:
            raise InputError(f"{type(model.task).__name__} predicts no joints: leave boxes out")
        images, kind = _listed(images), "rig" if model.reads_rig else "image"
        if isinstance(images, Picture) or not isinstance(images, Iterable):
            image, rig = _read(images, kind, predictor)
            hw = (image.shape[-2], image.shape[-1])
            people = None if boxes is None else to_people(boxes, hw)
            return predictor.one(image, prompt, people, rig)
        is_list = isinstance(images, list | tuple)
        if is_list and boxes is not None:
            boxes = list(boxes)
            if len(boxes) != len(images):
                raise InputError(
                    f"{len(images)} images, but boxes for {len(boxes)}: give rows for each image"
                )
        stream = _predict(predictor, images, kind, prompt, boxes)
        return list(stream) if is_list else stream

    def _predictor_with(self, plan: Plan | None, options: Mapping[str, Any]) -> Predictor:
        """Return the predictor of the pipeline, or one of the same model with another plan."""
        own = self.predictor
        if plan is None and not options:
            return own
        return own.with_plan(plan_with(plan or own.plan, options, own.model))


def _predict(
    predictor: Predictor,
    images: Iterable[Any],
    kind: str,
    prompt: str | None,
    boxes: Iterable[Any] | None,
) -> Iterator[Prediction]:
    """Yield the predictions of several images, of which only those that run are in memory.

    Args:
        predictor: predictor that runs them.
        images: images of any type, or rigs.
        kind: name of an image without a path, for messages.
        prompt: prompt for all images.
        boxes: boxes of people per image; None: each image shows one person.
    """
    hw, rig = (0, 0), None  # of the image that was read last

    def read() -> Iterator[Tensor]:
        nonlocal hw, rig
        for i, image in enumerate(images):
            pixels, rig = _read(image, f"{kind} {i}", predictor)
            hw = (pixels.shape[-2], pixels.shape[-1])
            yield pixels

    # these generators run after the image of the same index was read
    rigs = (rig for _ in itertools.count())
    people = None
    if boxes is not None:
        people = (to_people(rows, hw, f"boxes of {kind} {i}") for i, rows in enumerate(boxes))
    return predictor(read(), itertools.repeat(prompt), people, rigs)


def plan_with(plan: Plan, options: Mapping[str, Any], model: DenseModel) -> Plan:
    """Return a copy of a plan with some fields changed.

    Args:
        plan: plan to copy.
        options: new values of fields of ``Plan``, by name. ``short_side`` may also be ``training``,
            the size of the training images (if the model records it), or ``own``, the image's own
            size.
        model: model that will be run.

    Raises:
        InputError: if there is no such field (the message has the most similar one), or the plan
            cannot be run.
    """
    names = [field.name for field in fields(Plan)]
    for name in options:
        if name not in names:
            raise InputError(f"unknown option {name!r}: {suggest(name, names)}")
    changes = dict(options)
    short_side = changes.get("short_side")
    if isinstance(short_side, str):
        if short_side not in ("training", "own"):
            raise InputError(f"short_side {short_side!r}: give pixels, 'training' or 'own'")
        changes["short_side"] = short_side_px(short_side, model.info)
    return replace(plan, **changes)


def predictor_for(
    model: DenseModel,
    plan: Plan | None,
    options: Mapping[str, Any],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
) -> Predictor:
    """Return the predictor of a model for ``pipeline`` and ``evaluate``.

    Args:
        model: model to run.
        plan: how the model is run on an image; None: in one pass at the size of the training
            images.
        options: fields of the plan to change, see ``plan_with``.
        device: device to run on; None: the GPU if there is one.
        dtype: dtype of mixed precision, see ``mixed_dtype``.

    Raises:
        InputError: if the plan, the device or the dtype cannot be used.
    """
    plan = plan_with(plan or Plan(short_side_px("training", model.info)), options, model)
    return Predictor(model, plan, device=usable_device(device), dtype=mixed_dtype(dtype))


def _listed(images: Any) -> Any:
    """Return the images of a batch, a folder or a pattern as a list; other input is unchanged.

    Raises:
        InputError: if a folder or a pattern has no image.
    """
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | Path):
        is_pattern = any(sign in str(images) for sign in "*?[") and not os.path.exists(images)
        if is_pattern or os.path.isdir(images):
            return [job.image for job in find_images([str(images)])]
    return images


def _read(image: Any, name: str, predictor: Predictor) -> tuple[Tensor, Rig | None]:
    """Return the pixels of an image, and its rig for models of several cameras.

    The pixels of a rig are the images of its cameras side by side.

    Args:
        image: image of any type, or a rig.
        name: name of an image without a path, for messages.
        predictor: predictor that will run it.

    Raises:
        InputError: if the image or the rig cannot be used.
    """
    model = predictor.model
    if isinstance(image, str | Path):
        name = str(image)
        pixels, rig = read_image_or_rig(Path(image), requires_rig=model.reads_rig)
    elif isinstance(image, Rig) != model.reads_rig:
        noun = "a Rig of several cameras" if model.reads_rig else "one image"
        raise InputError(f"{name}: the model reads {noun}, got {type(image).__name__}")
    elif isinstance(image, Rig):
        if len(image) != 1:
            raise InputError(f"{name}: {len(image)} rows: give rigs of one row (Rig.each)")
        pixels, rig = draw_rig(image), image
    else:
        pixels, rig = to_tensor(image, name), None
    if rig is not None:
        check_rig(model, name, rig)
    elif not model.task.has_regions:
        try:
            predictor.plan.working_hw(*pixels.shape[-2:])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return pixels, rig


def check_rig(model: DenseModel, name: str | Path, rig: Rig) -> None:
    """Check that a model can use a rig of cameras.

    Args:
        model: model that reads the rig.
        name: name of the rig, for messages.
        rig: cameras, a batch of one.

    Raises:
        InputError: if a number is not finite or out of range, or the model cannot use the rig.
    """
    try:
        rig.require_usable()
        model.method.check_rig(rig)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
