"""Calibrate prediction sets on held-out images, see ``inference.confidence`` for the formula.

Every image is predicted by a model that was trained on other images: the model of its fold, or the
final model where there are validation images. Calibration on folds is cross-conformal prediction
(Vovk 2015). The models of the folds have seen fewer images than the final model, which makes the
sets larger rather than smaller. The expected coverage is proven for validation images that did not
take part in any choice; for folds it is measured (docs/results.md).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.inference.confidence import CONFIDENCES, ROUNDING, compute_required_coverage
from diffsight.methods.base import Variant
from diffsight.model import DenseModel
from diffsight.ops.resize import resize_image
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import Runtime, Views
from diffsight.types import Draws, Target

MIN_IMAGES = 9  # fewest images for a confidence of 0.9, and for extra folds to calibrate on


def held_out_outputs(
    model: DenseModel,
    variant: Variant | None,
    held: Sequence[Views],
    targets: Sequence[Target],
    runtime: Runtime,
) -> Iterator[tuple[Output, Target]]:
    """Yield the reduced output of every held-out image at the size of its label, on the CPU.

    Args:
        model: a model that was trained on other images.
        variant: variant of the method; None keeps the current one.
        held: encoded held-out images.
        targets: their labels.
        runtime: device and precision.
    """
    if variant:
        model.method.use(variant)
    model.eval()
    for (view, *_), target in zip(held, targets, strict=True):
        hw = (target.valid.shape[-2], target.valid.shape[-1])
        with torch.no_grad():
            with runtime.mixed():
                output = model(view.inputs, view.encoded, draws=Draws((0,))).reduced()
            output = output.with_stack(resize_image(output.stack, hw)).to("cpu")
        yield output, target.to("cpu")


def calibrate(task: AbstractTask, rows: Iterable[tuple[Output, Target]]) -> dict[str, Any]:
    """Return the calibration of ``DenseModel.info`` as plain data; empty without images.

    Images without a labelled pixel are skipped. The result is empty if labels are boxes: the
    classes inside a box are unknown, so no coverage can be measured.

    Args:
        task: a task with prediction sets.
        rows: reduced output and label of every held-out image, a batch of one each.

    Returns:
        ``images`` (count), ``confidence`` and ``q`` (levels and their thresholds), ``residuals``
        (errors of the totals, by name).
    """
    scores: list[Tensor] = []
    residuals: dict[str, list[float]] = {}
    for output, target in rows:
        if target.boxes is not None:
            return {}
        valid = target.valid[0]
        if not valid.any():
            continue
        scores.append(task.nonconformity(output, target.label)[0][valid])
        truth = task.totals(target.label[0], valid)
        for name, value in task.totals(task.to_label(output)[0], valid).items():
            residuals.setdefault(name, []).append(abs(value - truth[name]))
    curve = thresholds(scores) if scores else {}
    if not curve:
        return {}
    kept = {name: sorted(one for one in gaps if one) for name, gaps in residuals.items()}
    return {
        "images": len(scores),
        "confidence": [*curve],
        "q": [*curve.values()],
        "residuals": kept,
    }


def thresholds(scores: Sequence[Float[Tensor, " _"]]) -> Mapping[float, float]:
    """Return the threshold of every confidence level that the number of images allows.

    Args:
        scores: nonconformity of the valid pixels of every image; each image weighs the same.
    """
    images = len(scores)
    weights = [torch.full(one.shape, 1 / (images * len(one))).double() for one in scores]
    ordered, order = torch.cat([*scores]).sort()
    coverage = torch.cat([one.cpu() for one in weights])[order].cumsum(0)
    needed = {c: compute_required_coverage(c, images) for c in CONFIDENCES}
    needed = {c: level for c, level in needed.items() if level <= 1 + ROUNDING}
    if not needed:
        return {}
    levels = torch.tensor([*needed.values()], dtype=torch.float64).clamp(max=1) - ROUNDING
    positions = torch.searchsorted(coverage, levels).clamp(max=len(ordered) - 1)
    quantiles = zip(needed, ordered[positions].tolist(), strict=True)
    return {c: q for c, q in quantiles if math.isfinite(q)}
