"""Compare held-out scores with baselines, and summarise them in one sentence."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffsight.inference.baselines import average_labels
from diffsight.ops.resize import resize_image, resize_label
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import flat_labels
from diffsight.types import Target

CONSTANT, MEAN_MAP = "constant", "mean map"
CLEAR_GAIN = 0.1  # smallest clear gain, as a fraction of the baseline's error


def fold_baselines(task: AbstractTask, train: Sequence[Target]) -> dict[str, Tensor]:
    """Return baselines computed from training labels: label maps that ignore the image.

    Args:
        task: task that defines the best constant.
        train: labels of the training images, a batch of one each.

    Returns:
        The best constant, and the mean of every pixel position (for classes the most frequent
        class), ``d h w``; class ids have one channel. Labels are resized to the first one's size.
    """
    rows = [(target.label[0].cpu(), target.valid[0].cpu()) for target in train]
    flat = flat_labels(rows)
    every = torch.ones_like(flat[:, 0] if flat.ndim == 4 else flat).bool()
    constant = task.constant(flat, every).reshape(-1, 1, 1)
    hw = (rows[0][1].shape[-2], rows[0][1].shape[-1])
    if flat.ndim == 4:
        return {CONSTANT: constant, MEAN_MAP: average_labels(rows, hw, constant)}
    classes = len(task.class_names)
    prior = functional.one_hot(constant[0], classes).movedim(-1, 0).float()
    frequencies = average_labels(rows, hw, prior, classes=classes)
    return {CONSTANT: constant, MEAN_MAP: frequencies.argmax(dim=0, keepdim=True)}


def measure_baselines(
    task: AbstractTask, train: Sequence[Target], held: Sequence[Target]
) -> dict[str, list[Tensor]]:
    """Return the metric sums of every held-out image, by name of the baseline."""
    sums: dict[str, list[Tensor]] = {}
    for name, label in fold_baselines(task, train).items():
        sums[name] = []
        for target in held:
            hw = (target.valid.shape[-2], target.valid.shape[-1])
            truth = target.to("cpu")
            if label.shape[-2:] == (1, 1):
                there = label.expand(-1, *hw)
            elif label.is_floating_point():
                there = resize_image(label[None], hw)[0]
            else:
                there = resize_label(label, hw)
            there = there[None] if truth.label.ndim == 4 else there
            sums[name].append(task.measure(there, truth))
    return sums


def verdict(
    task: AbstractTask,
    scores: Mapping[str, float],
    per_image: Mapping[str, Sequence[float]],
    chosen: str,
) -> str:
    """Return a sentence on how much better a method is than the best baseline.

    A gain is clear if it is at least a tenth of the baseline's error, and at least two standard
    errors over the held-out images.

    Args:
        task: task that defines the metric.
        scores: scores over all held-out images, by name, baselines included.
        per_image: score of every held-out image, by name, in one order.
        chosen: name of the method.
    """
    sign = 1 if task.higher_is_better else -1
    finite = [name for name in (CONSTANT, MEAN_MAP) if math.isfinite(scores.get(name, math.nan))]
    if not finite or not math.isfinite(scores[chosen]):
        return ""
    best = max(finite, key=lambda name: sign * scores[name])
    advice = "more labels, more steps, or another backbone"
    gain = sign * (scores[chosen] - scores[best])
    if gain <= 0:
        return f"no better than the {best}: {advice}"
    left = 100 - scores[best] if task.higher_is_better else scores[best]
    pairs = zip(per_image[chosen], per_image[best], strict=True)
    gaps = torch.tensor([sign * (a - b) for a, b in pairs], dtype=torch.float64)
    gaps = gaps[gaps.isfinite()]
    error = float(gaps.std() / len(gaps) ** 0.5) if len(gaps) > 1 else math.inf
    fraction = gain / left if left > 0 else 1.0
    if fraction < CLEAR_GAIN or float(gaps.mean()) < 2 * error:
        return f"barely better than the {best}: {advice}"
    return f"clearly better than the {best}: {100 * fraction:.0f} % of its error is gone"
