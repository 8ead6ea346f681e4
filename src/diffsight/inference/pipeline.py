"""``diffsight.pipeline``: one line from a saved model to predictions on images of any kind."""

import copy
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffsight import hub
from diffsight.datasets.files import damaged, read_image, upright_rgb
from diffsight.datasets.rig_file import read_image_or_rig
from diffsight.datasets.rig_picture import sheet_of
from diffsight.errors import InputError, suggest
from diffsight.inference.plan import Plan, short_side_px
from diffsight.inference.predictor import Predictor
from diffsight.inference.write import find_images
from diffsight.model import DenseModel
from diffsight.rig import Rig
from diffsight.types import People

PIXELS = ((), (3,), (4,))  # shapes of one pixel: grey, RGB, RGBA
Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor | Rig


def pipeline(
    model: str | Path | DenseModel,
    *,
    plan: Plan | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    backbone: str | Path | None = None,
    trusted: Sequence[str] = (),
    **options: Any,
) -> "Pipeline":
    """Return a callable that predicts on images of any kind.

    Args:
        model: a saved model (folder or file), a Hugging Face hub id, or a model.
        plan: how images are run; default: once, at the size of the training images.
        device: where to run; default: the GPU if there is one.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision.
        revision: branch, tag or commit on the hub.
        backbone: where the frozen part of the model is, if not where the file says.
        trusted: packages besides diffsight whose classes a saved model may name.
        options: of the plan, see ``plan_with``, such as ``short_side=480, flip=True``.

    Raises:
        InputError: if the model cannot be loaded, or the plan or the device cannot be used.
    """
    if not isinstance(model, DenseModel):
        model = hub.load(model, revision=revision, backbone=backbone, trusted=trusted)
    return Pipeline(predictor_for(model, plan, options, device=device, dtype=dtype))


class Pipeline:
    """Predicts on images of any kind; made by ``pipeline``.

    Attributes:
        predictor: the model and its plan.
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

        Args:
            confidence: fraction of the pixels of a new image that they hold on average, such as
                0.9; predictions are ``ConfidentPrediction``.

        Raises:
            InputError: if the model has no calibration for it.
        """
        predictor = copy.copy(self.predictor)
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
        """Return one prediction for an image, a list for several, a generator for an iterator.

        The size of a prediction is that of its image. A depth prediction has ``depth_m``,
        ``valid``, ``unit``, ``depth_type`` and, with several passes, ``uncertainty_m``.

        Args:
            images: one image: a path, the bytes of its file, a PIL image, an array
                ``h w 3`` / ``h w`` of uint8 (or ``h w 3`` of floats in [0, 1]), or a tensor
                ``3 h w`` of uint8 or of floats in [0, 1]. For maps seen from above, a rig of one
                row, or the path of its JSON file. Several images, which give a list: a list or
                tuple, a batch (array ``b h w 3`` or tensor ``b 3 h w``), the path of a folder, or a
                pattern such as ``trip/*.jpg``; folders and patterns are read as by ``find_images``,
                in the order of their paths. Any other iterable, such as the frames of a video,
                gives a generator that reads a few images ahead.
            prompt: name in the model's text table (for depth the scene type) for all images; None
                is the mean of the names. For a model that reads sentences, the sentence.
            boxes: for a model of joints, rows of left, top, right and bottom in pixels around the
                people of an image, for several images rows for each; None: each image shows one
                person.
            plan: for this call; default: that of the pipeline.
            options: of the plan to change for this call, see ``plan_with``.

        Raises:
            InputError: for an image, boxes or a plan that cannot be used, or a prompt that the
                model does not know, does not take, misses, or cannot read whole.
        """
        model, predictor = self.model, self._predictor_with(plan, options)
        model.method.check_prompt(prompt)
        if boxes is not None and not model.task.has_regions:
            raise InputError(f"{type(model.task).__name__} finds no joints: leave boxes out")
        images, kind = _listed(images), "rig" if model.reads_rig else "image"
        if isinstance(images, Picture) or not isinstance(images, Iterable):
            people = None if boxes is None else to_people(boxes)
            image, rig = _read(images, kind, predictor)
            return predictor.one(image, prompt, people, rig)
        is_list = isinstance(images, list | tuple)
        if is_list and boxes is not None:
            boxes = list(boxes)
            if len(boxes) != len(images):
                raise InputError(f"{len(images)} images, boxes of {len(boxes)}: give rows for each")
        people = None if boxes is None else map(to_people, boxes)
        read = (_read(image, f"{kind} {i}", predictor) for i, image in enumerate(images))
        for_image, for_rig = itertools.tee(read)
        pictures, rigs = (image for image, _ in for_image), (rig for _, rig in for_rig)
        stream = predictor(pictures, itertools.repeat(prompt), people, rigs)
        return list(stream) if is_list else stream

    def _predictor_with(self, plan: Plan | None, options: Mapping[str, Any]) -> Predictor:
        """Return the predictor, or one of the same model with another plan."""
        known = self.predictor
        if plan is None and not options:
            return known
        changed = plan_with(plan or known.plan, options, known.model)
        predictor = Predictor(
            known.model, changed, device=known.device, dtype=known.dtype, latents=known.latents
        )
        predictor.text_features = known.text_features
        if known.threshold is not None:
            predictor.use_confidence(known.threshold.confidence)
        return predictor


def plan_with(plan: Plan, options: Mapping[str, Any], model: DenseModel) -> Plan:
    """Return a plan in which some options are changed.

    Args:
        plan: where the other options come from.
        options: fields of ``Plan`` by name. ``short_side`` may also be ``training``, the size of
            the training images (where the model knows it), or ``own``, that of the image.
        model: that will run.

    Raises:
        InputError: naming an option that does not exist and the nearest one, or what cannot be run.
    """
    known = [field.name for field in fields(Plan)]
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r}: {suggest(name, known)}")
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
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
    dtype: torch.dtype | None,
) -> Predictor:
    """Return the predictor of a model, as ``pipeline`` and ``evaluate`` run it.

    Args:
        model: to run.
        plan: how images are run; None is once, at the size of the training images.
        options: of the plan that are changed, see ``plan_with``.
        device: where to run; None is the GPU if there is one.
        dtype: of mixed precision; None and float32 are the model's own precision.

    Raises:
        InputError: if the plan or the device cannot be used.
    """
    plan = plan_with(plan or Plan(short_side_px("training", model.info)), options, model)
    usable = usable_device(str(device or default_device()))
    return Predictor(model, plan, device=usable, dtype=None if dtype == torch.float32 else dtype)


def _listed(images: Any) -> Any:
    """Return a batch, a folder or a pattern as a list of images, anything else as it is.

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
    """Return an image as ``to_tensor``, or the cameras of a rig side by side, and the rig.

    Args:
        image: of any kind.
        name: for messages, if it has no path.
        predictor: that will run it.

    Raises:
        InputError: if it cannot be used.
    """
    model = predictor.model
    if isinstance(image, str | Path):
        name = str(image)
        pixels, rig = read_image_or_rig(Path(image), wants_rig=model.reads_rig)
    elif isinstance(image, Rig) != model.reads_rig:
        what = "a Rig of several cameras" if model.reads_rig else "one image"
        raise InputError(f"{name}: the model reads {what}, got {type(image).__name__}")
    elif isinstance(image, Rig):
        if len(image) != 1:
            raise InputError(f"{name}: {len(image)} rows: give one row each (Rig.each)")
        pixels, rig = sheet_of(image), image
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
    """Refuse cameras that cannot be used.

    Args:
        model: that reads them.
        name: of the rig, for messages.
        rig: a batch of one.

    Raises:
        InputError: if numbers are not finite or out of range, or the model does not read them.
    """
    try:
        rig.require_usable()
        model.method.check_rig(rig)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def default_device() -> str:
    """Return the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str) -> str:
    """Return the name of a device on which something can be computed.

    Raises:
        InputError: if there is none of this name.
    """
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        repair = "choose another, such as cpu"
        raise InputError(f"device {name!r} cannot be used ({reason}): {repair}") from None
    return name


def to_people(boxes: Any) -> People:
    """Return rows of left, top, right and bottom as people.

    Raises:
        InputError: if they are no such rows, or a box is empty.
    """
    rows = "rows of left, top, right and bottom in pixels"
    try:
        edges = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"boxes: no numbers of four each: give {rows}") from None
    if not bool((edges[:, 2:] > edges[:, :2]).all()):
        raise InputError(f"boxes: one is empty: give {rows}")
    return People.of_boxes(edges, torch.ones(len(edges)))


def to_tensor(image: Any, name: str = "image") -> Tensor:
    """Return an image of any kind as ``3 h w``, uint8 or float in [0, 1].

    Args:
        image: bytes of a file, a PIL image, an array or a tensor.
        name: for messages.

    Raises:
        InputError: if its file, shape, type or range cannot be that of an RGB image.
    """
    if isinstance(image, bytes):
        return read_image(name, image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim < 2 or image.shape[2:] not in PIXELS or not image.size:
            raise InputError(f"{name}: array of shape {image.shape}: give (height, width, 3)")
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _pixels(image, name)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"{name}: array of shape {image.shape}: give (height, width, 3)")
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        kinds = "a path, a PIL image, an array, a tensor or the bytes of a file"
        raise InputError(f"{name}: {type(image).__name__} is no image: give {kinds}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"{name}: tensor of shape {tuple(image.shape)}: give (3, height, width)")
    if image.dtype == torch.uint8:
        return image
    if not image.dtype.is_floating_point:
        raise InputError(f"{name}: of type {image.dtype}: give uint8, or floats in [0, 1]")
    low, high = image.min().item(), image.max().item()
    # written so that NaN fails
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name}: values from {low:g} to {high:g}: scale floats to [0, 1]")
    return image.float()


def _pixels(image: Image.Image, name: str) -> Tensor:
    """Return the pixels of a PIL image, whose file may not have been read yet.

    Raises:
        InputError: if it cannot be used.
    """
    try:
        return torch.from_numpy(upright_rgb(name, image)).permute(2, 0, 1)
    except InputError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise damaged(Path(name), error) from error
