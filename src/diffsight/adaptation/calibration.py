"""Calibrate prediction sets on held-out images, see ``inference.confidence`` for the formula.

Every image has an output of a model that was trained on other images: of its fold, or of the final
model where there are validation images. With folds this is cross-conformal prediction (Vovk 2015):
the folds' models have seen fewer images than the final one, which makes sets larger rather than
smaller. The expected coverage is proven for validation images that chose nothing; with folds it is
what is measured (docs/results.md).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.inference.confidence import CONFIDENCES, ROUNDING, required_coverage
from diffsight.methods.base import Variant
from diffsight.model import DenseModel
from diffsight.ops.resize import resized_image
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import Runtime, Views
from diffsight.types import Draws, Target

MIN_IMAGES = 9  # from which on folds are trained for the calibration alone: enough for 0.9


def held_out_outputs(
    model: DenseModel,
    variant: Variant | None,
    held: Sequence[Views],
    targets: Sequence[Target],
    runtime: Runtime,
) -> Iterator[tuple[Output, Target]]:
    """Yield the reduced output of every held-out image at the size of its label, on the CPU.

    Args:
        model: trained on other images.
        variant: of the method; None is the present one.
        held: encoded images.
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
            output = output.with_stack(resized_image(output.stack, hw)).to("cpu")
        yield output, target.to("cpu")


def calibrate(task: AbstractTask, rows: Iterable[tuple[Output, Target]]) -> dict[str, Any]:
    """Return the calibration of ``DenseModel.info`` as plain data; empty without images.

    Images without a labelled pixel are left out. Where there are boxes it is empty: nobody knows
    the classes inside them, so that no coverage can be measured there.

    Args:
        task: with prediction sets.
        rows: reduced output and label of every held-out image, a batch of one each.

    Returns:
        ``images``, ``confidence`` and ``q`` of as many thresholds, ``residuals`` of the totals.
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
    """Return the threshold of every confidence that so many images allow.

    Args:
        scores: nonconformity of the valid pixels of every image; each image weighs the same.
    """
    images = len(scores)
    weights = [torch.full(one.shape, 1 / (images * len(one))).double() for one in scores]
    ordered, order = torch.cat([*scores]).sort()
    coverage = torch.cat([one.cpu() for one in weights])[order].cumsum(0)
    needed = {c: required_coverage(c, images) for c in CONFIDENCES}
    needed = {c: level for c, level in needed.items() if level <= 1 + ROUNDING}
    if not needed:
        return {}
    levels = torch.tensor([*needed.values()], dtype=torch.float64).clamp(max=1) - ROUNDING
    positions = torch.searchsorted(coverage, levels).clamp(max=len(ordered) - 1)
    found = zip(needed, ordered[positions].tolist(), strict=True)
    return {c: q for c, q in found if math.isfinite(q)}
