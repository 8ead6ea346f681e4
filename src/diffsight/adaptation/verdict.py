"""What held-out scores mean: baselines of every fold, and a verdict in words."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffsight.inference.baselines import mean_over_images
from diffsight.ops.resize import resized_image, resized_label
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import flat_labels
from diffsight.types import Target

CONSTANT, MEAN_MAP = "constant", "mean map"
CLEAR_GAIN = 0.1  # of the error that a baseline leaves


def fold_baselines(task: AbstractTask, train: Sequence[Target]) -> dict[str, Tensor]:
    """Return labels that are the same for every image, made of training labels.

    Args:
        task: which says what the best constant is.
        train: labels of the training images, a batch of one each.

    Returns:
        The best constant and the mean of every pixel position (of classes the most frequent one),
        ``d h w``; ids have one channel. Labels of other sizes are brought to the first's.
    """
    rows = [(target.label[0].cpu(), target.valid[0].cpu()) for target in train]
    flat = flat_labels(rows)
    every = torch.ones_like(flat[:, 0] if flat.ndim == 4 else flat).bool()
    constant = task.constant(flat, every).reshape(-1, 1, 1)
    hw = (rows[0][1].shape[-2], rows[0][1].shape[-1])
    if flat.ndim == 4:
        return {CONSTANT: constant, MEAN_MAP: mean_over_images(rows, hw, constant)}
    classes = len(task.class_names)
    known = functional.one_hot(constant[0], classes).movedim(-1, 0).float()
    frequencies = mean_over_images(rows, hw, known, classes=classes)
    return {CONSTANT: constant, MEAN_MAP: frequencies.argmax(dim=0, keepdim=True)}


def measure_baselines(
    task: AbstractTask, train: Sequence[Target], held: Sequence[Target]
) -> dict[str, list[Tensor]]:
    """Return the metric sums of every held-out image, by baseline."""
    sums: dict[str, list[Tensor]] = {}
    for name, label in fold_baselines(task, train).items():
        sums[name] = []
        for target in held:
            hw = (target.valid.shape[-2], target.valid.shape[-1])
            truth = target.to("cpu")
            if label.shape[-2:] == (1, 1):
                there = label.expand(-1, *hw)
            elif label.is_floating_point():
                there = resized_image(label[None], hw)[0]
            else:
                there = resized_label(label, hw)
            there = there[None] if truth.label.ndim == 4 else there
            sums[name].append(task.measure(there, truth))
    return sums


def verdict(
    task: AbstractTask,
    scores: Mapping[str, float],
    per_image: Mapping[str, Sequence[float]],
    chosen: str,
) -> str:
    """Return in words how much better a method is than the best baseline on held-out images.

    A gain is clear from a tenth of the error that the baseline leaves on, and from two standard
    errors over the images.

    Args:
        task: whose metric it is.
        scores: over all held-out images, by name; those of baselines among them.
        per_image: the same of every held-out image, in one order.
        chosen: name of the method.
    """
    sign = 1 if task.higher_is_better else -1
    known = [name for name in (CONSTANT, MEAN_MAP) if math.isfinite(scores.get(name, math.nan))]
    if not known or not math.isfinite(scores[chosen]):
        return ""
    best = max(known, key=lambda name: sign * scores[name])
    advice = "more labels, or another backbone"
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
