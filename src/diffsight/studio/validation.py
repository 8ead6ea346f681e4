"""A cross-validated score of the present labels, in pieces that can be interrupted."""

import math
from collections.abc import Callable, Generator, Sequence

import torch

from diffsight.backbones import BackboneSource
from diffsight.studio.live import STEPS, LiveModel
from diffsight.studio.state import Score
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import Views, measure_variants, split_folds

FOLDS = 3
BURST_S = 0.5


def cross_validate(
    source: BackboneSource,
    task: AbstractTask,
    images: Sequence[Views],
    ids: Sequence[str],
    is_interrupted: Callable[[], bool],
) -> Generator[None, None, Score | None]:
    """Yield after every piece of work.

    Every fold is trained from new weights, for as many steps as the model on the page.

    Args:
        source: frozen backbone.
        task: task of the labels.
        images: labelled images.
        ids: hashes of the files; the folds depend on them.
        is_interrupted: called before every step; True ends the piece at once.

    Returns:
        The score over all held-out images; None if it is not finite.
    """
    sums = []
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
        yield None
    score = task.score(torch.stack(sums).sum(dim=0))
    if not math.isfinite(score):
        return None
    return Score(len(images), round(score, 4), task.metric_name, task.higher_is_better)
