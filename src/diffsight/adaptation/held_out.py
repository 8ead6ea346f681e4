"""Scores on held-out images, of candidates and of baselines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffsight.adaptation.verdict import verdict
from diffsight.tasks.base import AbstractTask

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class HeldOut:
    """How well a candidate or a baseline predicts held-out images.

    Attributes:
        score: over all of them.
        sums: of the metric.
        per_image: the score of every image, in the order of the folds.
    """

    score: float
    sums: Tensor
    per_image: Sequence[float]

    @classmethod
    def of(cls, task: AbstractTask, rows: Sequence[Tensor]) -> "HeldOut":
        """Return the scores of the metric sums of every image."""
        sums = torch.stack([*rows]).sum(dim=0)
        return cls(task.score(sums), sums, [task.score(row) for row in rows])


def report(task: AbstractTask, results: Mapping[str, HeldOut], chosen: str) -> dict[str, Any]:
    """Return all scores, more figures of the chosen candidate, and a verdict, as plain data.

    Args:
        task: whose metric it is.
        results: of candidates and baselines, by name.
        chosen: name of a candidate, which may have no result.
    """
    scores = {name: result.score for name, result in results.items()}
    if chosen not in results:
        return {"held_out": scores}
    per_image = {name: result.per_image for name, result in results.items()}
    return {
        "held_out": scores,
        "held_out_images": len(results[chosen].per_image),
        "figures": dict(task.figures(results[chosen].sums)),
        "verdict": verdict(task, scores, per_image, chosen),
    }


def best_key(task: AbstractTask, scores: Mapping[_Key, float]) -> _Key:
    """Return the key of the best score; the first where none is a number."""
    finite = [key for key, score in scores.items() if math.isfinite(score)]
    order = max if task.higher_is_better else min
    return order(finite or [next(iter(scores))], key=lambda key: scores[key])
