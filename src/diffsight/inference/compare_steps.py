"""Quality against cost: the predictions of one image in several numbers of steps."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diffsight.inference.explain_pictures import picture_sheet
from diffsight.inference.predictor import Predictor
from diffsight.rig import Rig
from diffsight.tasks import AbstractTask, Prediction, StoredArray
from diffsight.types import People, Target


@dataclass(frozen=True)
class StepsOfImage:
    """The predictions of one image.

    Attributes:
        steps: their numbers, ascending.
        predictions: in as many steps.
        seconds: that each took.
        differences: of each from the last one, in words; empty of the last one.
    """

    steps: Sequence[int]
    predictions: Sequence[Prediction]
    seconds: Sequence[float]
    differences: Sequence[str]

    def rows(self) -> list[dict[str, Any]]:
        """Return plain data for a JSON file."""
        columns = (self.steps, self.seconds, self.differences)
        return [
            {"steps": n, "seconds": round(s, 4), **({"compared_with_last": text} if text else {})}
            for n, s, text in zip(*columns, strict=True)
        ]

    def picture(self, image: UInt8[Tensor, "3 h w"]) -> StoredArray:
        """Return the image, and each prediction with its time and its difference."""
        pixels = image.float() / 255
        columns = (self.predictions, self.steps, self.seconds, self.differences)
        last = self.predictions[-1]  # on whose scale all are drawn
        cells = [
            (last.draw_with(one, pixels)[1], f"{n} step{'s' * (n > 1)}, {s:.2g} s", text)
            for one, n, s, text in zip(*columns, strict=True)
        ]
        heading = f"Predictions in different numbers of steps, compared with {self.steps[-1]}"
        return StoredArray(np.asarray(picture_sheet(pixels, cells, heading)))


def compare_steps(
    predictor: Predictor,
    steps: Sequence[int],
    image: UInt8[Tensor, "3 h w"],
    prompt: str | None = None,
    people: People | None = None,
    rig: Rig | None = None,
) -> StepsOfImage:
    """Predict an image in several numbers of steps, each timed from the image on.

    Args:
        predictor: the model and its plan, whose number of steps is not used.
        steps: numbers of steps.
        image: RGB.
        prompt: for models that read one.
        people: boxes for models of joints.
        rig: of several cameras.

    Raises:
        InputError: as ``Predictor``.
    """
    numbers = sorted(set(steps))
    predictions, seconds = [], []
    for number in [numbers[0], *numbers]:
        one = copy.copy(predictor)
        one.plan, one.latents = replace(predictor.plan, steps=number), None
        start = time.perf_counter()
        predictions.append(one.one(image, prompt, people, rig))
        seconds.append(time.perf_counter() - start)
    del predictions[0], seconds[0]  # which paid for what is done once
    task, last = predictor.model.task, predictions[-1]
    differences = [compared(task, one, last) for one in predictions[:-1]]
    return StepsOfImage(numbers, predictions, seconds, [*differences, ""])


def compared(task: AbstractTask, prediction: Prediction, last: Prediction) -> str:
    """Return the metric of a task between two predictions, in words, such as ``mIoU, %: 93.1``."""
    truth = last.to_label()[None]
    valid = torch.ones(1, *truth.shape[-2:], dtype=torch.bool, device=truth.device)
    sums = task.measure(prediction.to_label()[None], Target(truth, valid))
    return f"{task.metric_name}: {task.score(sums):.3g}"
