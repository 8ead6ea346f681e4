"""A cross-validated score of the present labels, in pieces that can be interrupted."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from diffsight.backbones import BackboneSource
from diffsight.outputs import Output
from diffsight.studio.live import STEPS, LiveModel
from diffsight.studio.state import Score
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import Views, measure_variants, split_folds

FOLDS = 3
BURST_S = 0.5


@dataclass(frozen=True)
class Validation:
    """The result of a cross-validation.

    Attributes:
        score: score over all held-out images; None if it is not finite.
        models: model of every fold, trained without the images of the fold.
    """

    score: Score | None
    models: Sequence[LiveModel]


def cross_validate(
    source: BackboneSource,
    task: AbstractTask,
    images: Sequence[Views],
    ids: Sequence[str],
    is_interrupted: Callable[[], bool],
) -> Iterator[Validation | None]:
    """Yield None after every piece of work, and the result at last.

    Every fold is trained from new weights, for as many steps as the model on the page.

    Args:
        source: frozen backbone.
        task: task of the labels.
        images: labelled images.
        ids: hashes of the files; the folds depend on them.
        is_interrupted: called before every step; True ends the piece at once.
    """
    models, sums = [], []
    for train_on, held_out in split_folds(ids, min(FOLDS, len(set(ids)))):
        live = LiveModel(source, task)
        some = [images[i] for i in train_on]
        live.fit_statistics(some)
        while live.done < STEPS:
            live.burst(some, BURST_S, is_interrupted)
            yield None
        held = [images[i] for i in held_out]
        rows = measure_variants(live.model, held, [views[0].target for views in held])
        sums += [variants[0] for variants in rows]  # as the page predicts
        models.append(live)
        yield None
    score = task.score(torch.stack(sums).sum(dim=0))
    if not math.isfinite(score):
        yield Validation(None, models)
        return
    result = Score(len(images), round(score, 4), task.metric_name, task.higher_is_better)
    yield Validation(result, models)


def disagreement(task: AbstractTask, outputs: Sequence[Output]) -> float:
    """Return how much several models disagree on an image.

    For classes it is the fraction of the pixels at which two models predict different classes, a
    mean over the pairs of models. For numbers it is the mean standard deviation of the models, in
    units of the labels' range.

    Args:
        task: task of the models.
        outputs: output of each model for the image.
    """
    labels = torch.stack([task.to_label(one)[0] for one in outputs])
    pairs = list(itertools.combinations(labels, 2))
    if not pairs:
        return 0.0
    if task.class_names:
        return sum(float((a != b).float().mean()) for a, b in pairs) / len(pairs)
    centres = torch.cat([one.codec.centres for one in task.outputs if one.codec is not None])
    spread = float(centres.max() - centres.min())
    return float(labels.float().std(dim=0).mean()) / max(spread, 1e-12)
