"""Compare the predictions of one image with different numbers of sampling steps."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diffsight.inference.explain_pictures import draw_picture_sheet
from diffsight.inference.predictor import Predictor
from diffsight.rig import Rig
from diffsight.tasks import AbstractTask, Prediction, StoredArray
from diffsight.types import People, Target


@dataclass(frozen=True)
class StepComparison:
    """The predictions of one image with different numbers of steps.

    Attributes:
        steps: numbers of steps, ascending.
        predictions: the prediction of each number of steps.
        seconds: time that each prediction took.
        differences: metric between each prediction and that with the most steps, as text such as
            ``mIoU, %: 93.1``; empty for the last one.
    """

    steps: Sequence[int]
    predictions: Sequence[Prediction]
    seconds: Sequence[float]
    differences: Sequence[str]

    def rows(self) -> list[dict[str, Any]]:
        """Return plain data for a JSON file, with one entry per number of steps."""
        columns = (self.steps, self.seconds, self.differences)
        return [
            {"steps": n, "seconds": round(s, 4), **({"compared_with_last": text} if text else {})}
            for n, s, text in zip(*columns, strict=True)
        ]

    def picture(self, image: UInt8[Tensor, "3 h w"]) -> StoredArray:
        """Return a picture of the image and of each prediction with its time and difference.

        All predictions are drawn on the colour scale of the last one.
        """
        pixels = image.float() / 255
        columns = (self.predictions, self.steps, self.seconds, self.differences)
        last = self.predictions[-1]
        cells = [
            (last.draw_with(one, pixels)[1], f"{n} step{'s' * (n > 1)}, {s:.2g} s", text)
            for one, n, s, text in zip(*columns, strict=True)
        ]
        heading = f"Predictions in different numbers of steps, compared with {self.steps[-1]}"
        return StoredArray(np.asarray(draw_picture_sheet(pixels, cells, heading)))


def compare_steps(
    predictor: Predictor,
    steps: Sequence[int],
    image: UInt8[Tensor, "3 h w"],
    prompt: str | None = None,
    people: People | None = None,
    rig: Rig | None = None,
) -> StepComparison:
    """Predict an image with several numbers of steps, and time each prediction.

    The time of a prediction includes the encoding of the image.

    Args:
        predictor: model and plan; the number of steps of the plan is not used.
        steps: numbers of steps.
        image: RGB image.
        prompt: prompt of the image, for models that use one.
        people: boxes of people, for models of joints.
        rig: cameras that the image shows, for models of several cameras.

    Raises:
        InputError: see ``Predictor``.
    """
    numbers = sorted(set(steps))
    predictions, seconds = [], []
    for number in [numbers[0], *numbers]:  # the first pass is a warm-up
        one = copy.copy(predictor)
        one.plan, one.latents = replace(predictor.plan, steps=number), None
        start = time.perf_counter()
        predictions.append(one.one(image, prompt, people, rig))
        seconds.append(time.perf_counter() - start)
    del predictions[0], seconds[0]
    task, last = predictor.model.task, predictions[-1]
    differences = [format_difference(task, one, last) for one in predictions[:-1]]
    return StepComparison(numbers, predictions, seconds, [*differences, ""])


def format_difference(task: AbstractTask, prediction: Prediction, last: Prediction) -> str:
    """Return the metric between two predictions as text, such as ``mIoU, %: 93.1``.

    Args:
        task: task with the metric.
        prediction: prediction to score.
        last: prediction that serves as the label, at every pixel.
    """
    truth = last.to_label()[None]
    valid = torch.ones(1, *truth.shape[-2:], dtype=torch.bool, device=truth.device)
    sums = task.measure(prediction.to_label()[None], Target(truth, valid))
    return f"{task.metric_name}: {task.score(sums):.3g}"
