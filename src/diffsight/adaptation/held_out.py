"""Scores of candidates and baselines on held-out images."""

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
    """Scores of a candidate or a baseline on held-out images.

    Attributes:
        score: score over all held-out images.
        sums: metric sums over all held-out images.
        per_image: score of every image, in the order of the folds.
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
    """Return all scores, further figures of the chosen candidate, and a verdict, as plain data.

    Args:
        task: task that defines the metric.
        results: scores of candidates and baselines, by name.
        chosen: name of the chosen candidate; it has no result if nothing was held out.
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
    """Return the key of the best finite score, or the first key if no score is finite."""
    finite = [key for key, score in scores.items() if math.isfinite(score)]
    order = max if task.higher_is_better else min
    return order(finite or [next(iter(scores))], key=lambda key: scores[key])
