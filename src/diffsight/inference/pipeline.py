"""``diffsight.pipeline``: one line from a saved model to predictions on images of any kind."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffsight import hub
from diffsight.datasets.files import read_image, upright_rgb
from diffsight.errors import InputError
from diffsight.hub.task_file import Task
from diffsight.inference.plan import Plan, ShortSide, short_side_px
from diffsight.inference.predictor import Predictor
from diffsight.methods.prompted import AbstractPrompted
from diffsight.model import DenseModel
from diffsight.prompts import LearnedSentences, Sentences

PIXELS = ((), (3,), (4,))  # shapes of one pixel: grey, RGB, RGBA
Picture = str | Path | Image.Image | np.ndarray | Tensor


def pipeline(
    model: str | Path | DenseModel | Task,
    *,
    short_side: ShortSide = "training",
    windows: int = 1,
    flip: bool = False,
    batch_size: int = 1,
    noises: int = 1,
    long_side: int | None = None,
    tile: int | None = None,
    stride: int | None = None,
    scales: tuple[float, ...] = (1.0,),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    backbone: str | Path | None = None,
) -> "Pipeline":
    """A callable that predicts on paths, PIL images, arrays and tensors.

    Args:
        model: folder of a saved model, a Hugging Face hub id, a task file, what ``adapt`` gave, or
            a model.
        short_side: pixels that the shorter side is resized to for the model; ``training`` is that
            of the images it learned from (where folder or task say it), ``own`` that of the image.
        windows: 1 is the whole image, from 2 on square windows along the longer side.
        flip: average with the mirrored image.
        batch_size: windows of one size that are run together.
        noises: draws of noise that are averaged, for methods that add some.
        long_side: most pixels that the longer side may have after ``short_side``.
        tile: side of square windows over both sides of the image.
        stride: pixels from one window of ``tile`` to the next.
        scales: of the size; from two on, probabilities are averaged over them.
        device: where to run; default: the GPU if there is one.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision.
        revision: of a hub id.
        backbone: where a task's frozen model is, if not where the file says.

    Raises:
        InputError: if the model cannot be loaded or the plan cannot be run.
    """
    config: Mapping[str, Any] = {}
    if isinstance(model, Task):
        model, config = model.model, model.config
    if not isinstance(model, DenseModel):
        model, config = hub.open_model(model, revision=revision, backbone=backbone)
    plan = Plan(
        short_side=short_side_px(short_side, config),
        windows=windows,
        flip=flip,
        batch_size=batch_size,
        noises=noises,
        long_side=long_side,
        tile=tile,
        stride=stride,
        scales=scales,
    )
    return Pipeline(Predictor(model, plan, device=device or default_device(), autocast=dtype))


class Pipeline:
    """What ``pipeline`` gives.

    Attributes:
        predictor: the model and its plan.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __call__(self, images: Picture | Iterable[Picture], *, prompt: str | None = None) -> Any:
        """A prediction for one image, a list for a list, an ordered stream for other iterables.

        The size of a prediction is that of its image. A depth prediction has ``depth_m``,
        ``valid``, ``unit``, ``depth_type`` and, with several passes, ``uncertainty_m``.

        Args:
            images: paths, PIL images, arrays ``h w 3`` / ``h w`` of uint8 (or ``h w 3`` of floats
                in [0, 1]), or tensors ``3 h w`` of uint8 or of floats in [0, 1].
            prompt: text name for all of them (for depth the scene type); None is the mean of the
                names. For a model that reads sentences, the sentence.

        Raises:
            InputError: for an image that cannot be used, a prompt that the model does not know, or
                a sentence that is missing or longer than the model reads.
        """
        require_sentence(self.predictor.model, prompt)
        if isinstance(images, Picture):
            return self.predictor.one(to_tensor(images), prompt)
        stream = self.predictor(map(to_tensor, images), itertools.repeat(prompt))
        return list(stream) if isinstance(images, list | tuple) else stream


def require_sentence(model: DenseModel, sentence: str | None) -> None:
    """A model that reads sentences needs one, and reads all of it.

    Raises:
        InputError: if there is none, or it would be cut.
    """
    prompts = sentence_prompts(model)
    if prompts is None:
        return
    if sentence is None or not sentence.strip():
        raise InputError("the model reads a sentence about the image: give one as prompt")
    prompts.tokenizer.refuse_long(sentence)


def sentence_prompts(model: DenseModel) -> Sentences | LearnedSentences | None:
    """What turns sentences into vectors in a model that reads them."""
    prompts = model.method.prompts if isinstance(model.method, AbstractPrompted) else None
    return prompts if isinstance(prompts, Sentences | LearnedSentences) else None


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str) -> str:
    """The same, if something can be computed there.

    Raises:
        InputError: if there is none of this name.
    """
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}): try --device cpu") from None
    return name


def to_tensor(image: Picture) -> Tensor:
    """An image of any kind as ``3 h w``, uint8 or float in [0, 1].

    Raises:
        InputError: if its file, shape, type or range cannot be that of an RGB image.
    """
    if isinstance(image, str | Path):
        return read_image(image)
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
    return _checked(image)


def _checked(image: Tensor) -> Tensor:
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
