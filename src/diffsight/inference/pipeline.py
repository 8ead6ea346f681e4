"""``diffsight.pipeline``: one line from a saved model to predictions on images of any kind."""

import copy
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffsight import hub
from diffsight.datasets.files import upright_rgb
from diffsight.datasets.rig_file import read_image_or_rig
from diffsight.datasets.rig_picture import sheet_of
from diffsight.errors import InputError
from diffsight.inference.plan import Plan, ShortSide, short_side_px
from diffsight.inference.predictor import Predictor
from diffsight.model import DenseModel
from diffsight.rig import Rig
from diffsight.types import People

PIXELS = ((), (3,), (4,))  # shapes of one pixel: grey, RGB, RGBA
Picture = str | Path | Image.Image | np.ndarray | Tensor | Rig


def pipeline(
    model: str | Path | DenseModel,
    *,
    short_side: ShortSide = "training",
    windows: int = 1,
    flip: bool = False,
    batch_size: int = 1,
    ensemble_size: int = 1,
    plan: Plan | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    backbone: str | Path | None = None,
    trusted: Sequence[str] = (),
) -> "Pipeline":
    """Return a callable that predicts on paths, PIL images, arrays and tensors.

    Args:
        model: a saved model (folder or file), a Hugging Face hub id, or a model.
        short_side: pixels that the shorter side is resized to for the model; ``training`` is that
            of the training images (where the model knows it), ``own`` that of the image.
        windows: 1 is the whole image, from 2 on square windows along the longer side.
        flip: average with the mirrored image.
        batch_size: windows of one size that are run together.
        ensemble_size: passes with different noise that are averaged, for methods that add some.
        plan: in place of the five options above, for windows over both sides and several scales.
        device: where to run; default: the GPU if there is one.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision.
        revision: of a hub id.
        backbone: where the frozen part of the model is, if not where the file says.
        trusted: packages besides diffsight whose classes a saved model may name.

    Raises:
        InputError: if the model cannot be loaded or the plan cannot be run.
    """
    if not isinstance(model, DenseModel):
        model = hub.load(model, revision=revision, backbone=backbone, trusted=trusted)
    if plan is None:
        size_px = short_side_px(short_side, model.info)
        plan = Plan(size_px, windows, flip, batch_size, ensemble_size)
    elif (short_side, windows, flip, batch_size, ensemble_size) != ("training", 1, False, 1, 1):
        raise InputError("give plan, or short_side, windows, flip, batch_size and ensemble_size")
    return Pipeline(Predictor(model, plan, device=device or default_device(), dtype=dtype))


class Pipeline:
    """Predicts on images of any kind; made by ``pipeline``.

    Attributes:
        predictor: the model and its plan.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

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
    ) -> Any:
        """Return a prediction for one image, a list for a list, a stream for other iterables.

        The size of a prediction is that of its image. A depth prediction has ``depth_m``,
        ``valid``, ``unit``, ``depth_type`` and, with several passes, ``uncertainty_m``.

        Args:
            images: paths, PIL images, arrays ``h w 3`` / ``h w`` of uint8 (or ``h w 3`` of floats
                in [0, 1]), or tensors ``3 h w`` of uint8 or of floats in [0, 1]. For maps seen from
                above, rigs of one row each, or paths of their JSON files.
            prompt: name in the model's text table (for depth the scene type) for all images; None
                is the mean of the names. For a model that reads sentences, the sentence.
            boxes: for a model of joints, rows of left, top, right and bottom in pixels around the
                people of an image, for a list of images a list of them; None: each image shows one
                person.

        Raises:
            InputError: for an image or boxes that cannot be used, or a prompt that the model does
                not know, does not take, misses, or cannot read whole.
        """
        model = self.predictor.model
        model.method.check_prompt(prompt)
        if boxes is not None and not model.task.has_regions:
            raise InputError(f"{type(model.task).__name__} finds no joints: leave boxes out")
        if isinstance(images, Picture):
            people = None if boxes is None else to_people(boxes)
            image, rig = self._read(images)
            return self.predictor.one(image, prompt, people, rig)
        people = None if boxes is None else map(to_people, boxes)
        for_image, for_rig = itertools.tee(map(self._read, images))
        pictures, rigs = (image for image, _ in for_image), (rig for _, rig in for_rig)
        stream = self.predictor(pictures, itertools.repeat(prompt), people, rigs)
        return list(stream) if isinstance(images, list | tuple) else stream

    def _read(self, image: Picture) -> tuple[Tensor, Rig | None]:
        """Return an image as ``to_tensor``, or the cameras of a rig side by side, and the rig.

        Raises:
            InputError: if it cannot be used.
        """
        wants_rig = self.predictor.model.reads_rig
        if isinstance(image, str | Path):
            picture, rig = read_image_or_rig(Path(image), wants_rig=wants_rig)
            if rig is not None:
                check_rig(self.predictor.model, image, rig)
            return picture, rig
        if isinstance(image, Rig) != wants_rig:
            what = "a Rig of several cameras" if wants_rig else "one image"
            raise InputError(f"the model reads {what}, got {type(image).__name__}")
        if not isinstance(image, Rig):
            return to_tensor(image), None
        if len(image) != 1:
            raise InputError(f"rig of {len(image)} rows: give one row each (Rig.each)")
        check_rig(self.predictor.model, "rig", image)
        return sheet_of(image), image


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
        raise InputError(f"device {name!r} cannot be used ({reason}): try --device cpu") from None
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


def to_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """Return an image of any kind as ``3 h w``, uint8 or float in [0, 1].

    Raises:
        InputError: if its file, shape, type or range cannot be that of an RGB image.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim < 2 or image.shape[2:] not in PIXELS or not image.size:
            raise InputError(f"array of shape {image.shape}: an image is (height, width, 3)")
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return torch.from_numpy(upright_rgb("image", image)).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"array of shape {image.shape}: an image is (height, width, 3)")
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"tensor of shape {tuple(image.shape)}: an image is (3, height, width)")
    if image.dtype == torch.uint8:
        return image
    if not image.dtype.is_floating_point:
        raise InputError(f"image of type {image.dtype}: give uint8, or floats in [0, 1]")
    low, high = image.min().item(), image.max().item()
    # written so that NaN fails
    if not (low >= 0 and high <= 1):
        raise InputError(f"image with values from {low:g} to {high:g}: scale floats to [0, 1]")
    return image.float()
