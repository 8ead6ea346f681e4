"""Pictures of labels and predictions with transparency, which the page lays over a photograph."""

import numpy as np
import torch
from jaxtyping import UInt8

from diffsight.ops.resize import resize_image
from diffsight.outputs import Output
from diffsight.studio.images import encode_png, fit
from diffsight.studio.project import Project
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.colour import depth_table
from diffsight.tasks.prediction import Prediction

UNCERTAIN_RGB = (255, 0, 128)


def draw_labels(project: Project, number: int, side: int) -> bytes:
    """Return the labels of an image as a PNG, transparent where there is no label.

    Args:
        project: the labels.
        number: id of the image.
        side: longer side of the picture in pixels.
    """
    width, height = fit(project.photograph(number).size, side)
    labels = project.labels(number, (height, width))
    if project.kind == "segmentation":
        table = np.zeros((256, 3), dtype=np.uint8)
        for one in project.classes:
            table[one.id] = one.rgb
        index = labels.values.astype(np.uint8)
    else:
        low, high = project.value_range() or (0.0, 1.0)
        table = depth_table()
        scaled = (labels.values - low) / max(high - low, 1e-12)
        index = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return encode_png(_with_alpha(table[index], np.where(labels.is_labelled, 255, 0)))


def predict_at(task: AbstractTask, output: Output, hw: tuple[int, int]) -> Prediction:
    """Return the prediction of one image at some size.

    Args:
        task: task of the model.
        output: reduced output of the model, a batch of one.
        hw: height and width in pixels.
    """
    resized = output.with_stack(resize_image(output.stack, hw))
    return task.decode(resized)[0]


def draw_prediction(task: AbstractTask, output: Output, hw: tuple[int, int]) -> bytes:
    """Return a prediction as a PNG; arguments as for ``predict_at``."""
    colours = predict_at(task, output, hw).draw().permute(1, 2, 0).numpy()
    return encode_png(_with_alpha(colours, np.full(hw, 255)))


def draw_uncertainty(
    task: AbstractTask, output: Output, hw: tuple[int, int], range_width: float
) -> bytes:
    """Return the uncertainty of a prediction as a PNG, opaque where it is uncertain.

    Args:
        task: task of the model.
        output: reduced output of the model, a batch of one.
        hw: height and width in pixels.
        range_width: difference of the largest and the smallest label of a scalar. A standard
            deviation of a quarter of it is opaque.
    """
    resized = output.with_stack(resize_image(output.stack, hw))
    probabilities = resized.class_probabilities()
    if probabilities is not None:
        count = probabilities.shape[1]
        uncertainty = (1 - probabilities[0].amax(dim=0)) / (1 - 1 / count)
    else:
        std = task.decode(resized)[0].std
        uncertainty = torch.zeros(hw) if std is None else 4 * std / max(range_width, 1e-12)
    alpha = (uncertainty.nan_to_num(1.0).clamp(0, 1) * 255).round().numpy()
    colours = np.broadcast_to(np.array(UNCERTAIN_RGB, dtype=np.uint8), (*hw, 3))
    return encode_png(_with_alpha(colours, alpha))


def _with_alpha(rgb: np.ndarray, alpha: np.ndarray) -> UInt8[np.ndarray, "h w 4"]:
    return np.concatenate([rgb, alpha[..., None].astype(np.uint8)], axis=2)
