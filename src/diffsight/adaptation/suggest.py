"""Choose the images whose labels help most, and forecast the score with more labels.

An image helps if unlabelled images resemble it more than any labelled image: its gain is the
decrease of the mean distance from an image to the nearest labelled one (facility location). The
distance is Euclidean between pooled features of a frozen backbone, each with standard deviation 1.

The gain can be multiplied with the disagreement of models that were trained on folds of the
labelled images. A saved model has one set of weights only, so ``fold_disagreement`` trains a linear
head for every fold, in closed form, on features that are computed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diffsight.adaptation.learning_curve import Forecast, forecast_score
from diffsight.errors import InputError

DISAGREEMENT_WEIGHT = 0.0  # docs/suggest.md has the comparison
FOLDS = 3
RIDGE = 1.0  # penalty of a head's squared weights, as a fraction of the number of pixels
LEAST = 1e-3  # probability that a head gives every class at least
MAX_REPRESENTED = 4000  # images that the gain is computed for; of more, a random subset
BLOCK = 256  # images whose distances are computed at once


@dataclass(frozen=True)
class Suggestion:
    """An image to label.

    Attributes:
        image: index of the image.
        resembling: number of other unlabelled images that resemble it more than any image that is
            labelled or suggested before it.
        gain: decrease of the distance to the nearest labelled image, mean over all unlabelled
            images, as a fraction of this distance before the first suggestion.
        disagreement: disagreement of the folds on this image; None if it is unknown.
        reason: one sentence.
    """

    image: int
    resembling: int
    gain: float
    disagreement: float | None
    reason: str


@dataclass(frozen=True)
class Suggestions:
    """Images to label, the most helpful one first, and the forecast of the score.

    Attributes:
        ranking: the images. Each one assumes that those before it are labelled.
        forecast: None if fewer than three numbers of labelled images have a score.
    """

    ranking: tuple[Suggestion, ...]
    forecast: Forecast | None


def suggest(
    features: Float[np.ndarray, "n c"],
    labelled: Sequence[int],
    *,
    disagreement: Float[np.ndarray, " n"] | None = None,
    disagreement_weight: float = DISAGREEMENT_WEIGHT,
    count: int = 10,
    history: Sequence[tuple[int, float]] = (),
    higher_is_better: bool = True,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Suggestions:
    """Return the unlabelled images that help most, and a forecast of the score.

    Args:
        features: one pooled vector per image, such as the mean of every channel of a frozen
            backbone.
        labelled: indices of the labelled images; may be empty.
        disagreement: disagreement of the folds on every image, see ``fold_disagreement``; values of
            labelled images are not used.
        disagreement_weight: power of the disagreement that the gain is multiplied with; 0 ranks by
            the gain alone.
        count: largest number of suggestions.
        history: pairs of a number of labelled images and a held-out score, for the forecast.
        higher_is_better: whether a higher score is better.
        bounds: lowest and highest possible score.

    Raises:
        InputError: if features or disagreements are not finite, an index is out of range, or the
            weight is negative.
    """
    features = np.asarray(features, dtype=np.float64)
    is_labelled = _check(features, labelled, disagreement, disagreement_weight)
    ranking = []
    if (~is_labelled).any() and count > 0:
        ranking = _rank(features, is_labelled, disagreement, disagreement_weight, count)
    forecast = forecast_score(history, higher_is_better=higher_is_better, bounds=bounds)
    return Suggestions(tuple(ranking), forecast)


def fold_disagreement(
    features: Sequence[Float[np.ndarray, "_ c"]],
    labels: Mapping[int, Float[np.ndarray, "_ k"]],
    *,
    is_classes: bool,
    folds: int = FOLDS,
) -> Float[np.ndarray, " n"] | None:
    """Return how much linear heads that are trained without a fold each disagree on every image.

    For classes it is the Jensen-Shannon divergence of their probabilities in nats, otherwise their
    standard deviation in units of the label's standard deviation; both are means over the
    positions and, for values, over the channels. A head is a ridge regression from the features of
    a position, each with mean 0 and standard deviation 1.

    Args:
        features: features at some positions of every image, see ``grid_features``.
        labels: labels of the labelled images at the same positions, by the index of the image:
            class probabilities or values. Positions with NaN have no label.
        is_classes: whether the labels are class probabilities.
        folds: number of folds; at most the number of labelled images.

    Returns:
        The disagreement of every image; None with fewer than two labelled images.
    """
    usable = {i: rows for i, rows in labels.items() if np.isfinite(rows).all(axis=1).any()}
    folds = min(folds, len(usable))
    if folds < 2:
        return None
    pixels = np.concatenate([features[i] for i in usable])
    mean, scale = pixels.mean(axis=0), 1 / (pixels.std(axis=0) + 1e-6)
    values = np.concatenate([rows[np.isfinite(rows).all(axis=1)] for rows in usable.values()])
    centre, unit = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if not is_classes:
        centre, unit = values.mean(axis=0), values.std(axis=0) + 1e-12
    sums = []
    for i, rows in usable.items():
        has_label = np.isfinite(rows).all(axis=1)
        x = _inputs(features[i][has_label], mean, scale)
        sums.append((x.T @ x, x.T @ ((rows[has_label] - centre) / unit), len(x)))
    heads = []
    for fold in range(folds):
        kept = [one for number, one in enumerate(sums) if number % folds != fold]
        totals: list[Any] = [sum(parts) for parts in zip(*kept, strict=True)]
        gram, moment, rows = totals
        penalty = RIDGE * rows * np.eye(len(gram))
        penalty[-1, -1] = 1e-6 * rows  # of the constant
        heads.append(np.linalg.solve(gram + penalty, moment))
    return np.array([_disagree(_inputs(x, mean, scale), heads, is_classes) for x in features])


def grid_features(
    levels: Sequence[Float[np.ndarray, "_ _ _"]], side: int = 8
) -> Float[np.ndarray, "p c"]:
    """Return the features of all levels of a pyramid at ``side`` x ``side`` positions.

    Args:
        levels: feature maps of one image.
        side: rows and columns of the grid; each level is averaged over the cells, or repeated.
    """
    return np.concatenate([grid_average(level, side) for level in levels], axis=1)


def grid_average(maps: Float[np.ndarray, "c h w"], side: int = 8) -> Float[np.ndarray, "p c"]:
    """Return the averages of maps over the cells of a grid of ``side`` x ``side`` positions.

    A cell that is smaller than a pixel of the maps gets the value of the pixel. NaN in a cell is
    left out of its average; a cell of NaN alone is NaN.
    """
    has_value = np.isfinite(maps)
    total, count = np.where(has_value, maps, 0.0).astype(np.float64), has_value.astype(np.float64)
    for axis in (1, 2):
        total, count = (_cells(part, side, axis) for part in (total, count))
    average = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return average.reshape(len(maps), -1).T


def _cells(maps: Float[np.ndarray, "c h w"], side: int, axis: int) -> Float[np.ndarray, "c _ _"]:
    """Return sums over the cells along one axis."""
    size = maps.shape[axis]
    starts = np.arange(side) * size // side
    ends = np.maximum((np.arange(side) + 1) * size // side, starts + 1)
    rows = [maps.take(range(a, b), axis).sum(axis) for a, b in zip(starts, ends, strict=True)]
    return np.stack(rows, axis)


def _check(
    features: Float[np.ndarray, "n c"],
    labelled: Sequence[int],
    disagreement: Float[np.ndarray, " n"] | None,
    weight: float,
) -> Bool[np.ndarray, " n"]:
    """Return which images are labelled, after a check of the arguments of ``suggest``."""
    if not np.isfinite(features).all():
        raise InputError("a feature is not finite: leave this image out")
    count = len(features)
    if outside := [i for i in labelled if not 0 <= i < count]:
        raise InputError(f"labelled image {outside[0]}: there are {count} images, count from 0")
    if not weight >= 0:
        raise InputError(f"disagreement weight {weight}: give a number of at least 0")
    if disagreement is not None and not np.isfinite(disagreement).all():
        raise InputError("the disagreements must be finite numbers: leave them out")
    is_labelled = np.zeros(count, dtype=bool)
    is_labelled[list(labelled)] = True
    return is_labelled


def _rank(
    features: Float[np.ndarray, "n c"],
    is_labelled: Bool[np.ndarray, " n"],
    disagreement: Float[np.ndarray, " n"] | None,
    weight: float,
    count: int,
) -> list[Suggestion]:
    """Choose unlabelled images one after the other; each one counts as labelled afterwards."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    is_constant = std <= 1e-9 * np.abs(mean)  # apart from rounding
    points = (features - mean) / np.where(is_constant, 1, std) / features.shape[1] ** 0.5
    unlabelled = np.flatnonzero(~is_labelled)
    represented = unlabelled
    if len(represented) > MAX_REPRESENTED:
        chosen = np.random.default_rng(0).choice(represented, MAX_REPRESENTED, replace=False)
        represented = np.sort(chosen)
    factor = np.ones(len(unlabelled))
    if disagreement is not None:
        factor = np.maximum(np.asarray(disagreement)[unlabelled], 1e-12) ** weight
    distance = _distances(points[represented], points[unlabelled])
    nearest = distance.max(axis=1)
    if is_labelled.any():
        nearest = _distances(points[represented], points[is_labelled]).min(axis=1)
    start = max(float(nearest.mean()), 1e-12)
    ranking, is_open = [], np.ones(len(unlabelled), dtype=bool)
    for _ in range(min(count, len(unlabelled))):
        gains = np.zeros(len(unlabelled))
        for part in np.array_split(np.flatnonzero(is_open), len(unlabelled) // BLOCK + 1):
            gains[part] = np.maximum(nearest[:, None] - distance[:, part], 0).mean(axis=0)
        best = int(np.argmax(np.where(is_open, gains * factor, -1)))
        is_open[best] = False
        closer = distance[:, best] < nearest
        number = max(round(int(closer.sum()) * len(unlabelled) / len(represented)) - 1, 0)
        gain = float(gains[best]) / start
        nearest = np.minimum(nearest, distance[:, best])
        image = int(unlabelled[best])
        own = None if disagreement is None else float(disagreement[image])
        rank = None if own is None else float((np.asarray(disagreement)[unlabelled] < own).mean())
        reference = " or ".join(
            ["labelled"] * bool(is_labelled.any()) + ["earlier"] * bool(ranking)
        )
        reason = _reason(number, gain, rank, reference)
        ranking.append(Suggestion(image, number, gain, own, reason))
    return ranking


def _reason(resembling: int, gain: float, rank: float | None, reference: str) -> str:
    """Return a sentence about a suggestion.

    Args:
        resembling: number of other unlabelled images that resemble it more than the reference.
        gain: decrease of the distance to the nearest reference.
        rank: fraction of the unlabelled images on which the folds disagree less; None if unknown.
        reference: images that it is compared with: ``labelled or earlier``, ``labelled`` or
            ``earlier``; empty if there is none.
    """
    if not reference:
        text = "no image is labelled, and this one is the most typical"
    elif gain == 0:
        text = "it is a copy of a labelled or earlier image"
    elif resembling == 0:
        text = f"it stands alone: all others without labels resemble {reference} images more"
    elif resembling == 1:
        text = f"1 other unlabelled image resembles it more than any {reference} image"
    else:
        text = f"{resembling} other unlabelled images resemble it more than any {reference} image"
    if rank is not None:
        text += f"; the folds disagree more on it than on {100 * rank:.0f} % of the others"
    return text


def _distances(
    rows: Float[np.ndarray, "a c"], columns: Float[np.ndarray, "b c"]
) -> Float[np.ndarray, "a b"]:
    """Return the Euclidean distances; equal rows have a distance of exactly 0."""
    squares = (rows**2).sum(axis=1)[:, None] + (columns**2).sum(axis=1) - 2 * rows @ columns.T
    return np.sqrt(np.where(squares < 1e-9, 0, squares)).astype(np.float32)


def _inputs(
    features: Float[np.ndarray, "p c"],
    mean: Float[np.ndarray, " c"],
    scale: Float[np.ndarray, " c"],
) -> Float[np.ndarray, "p d"]:
    """Return the inputs of a head: standardised features, and a constant."""
    x = (np.asarray(features, dtype=np.float64) - mean) * scale
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _disagree(
    x: Float[np.ndarray, "p d"], heads: Sequence[Float[np.ndarray, "d k"]], is_classes: bool
) -> float:
    """Return the disagreement of heads on one image."""
    outputs = np.stack([x @ head for head in heads])
    if not is_classes:
        return float(outputs.std(axis=0).mean())
    probability = np.maximum(outputs, LEAST)
    probability /= probability.sum(axis=-1, keepdims=True)
    return float((_entropy(probability.mean(axis=0)) - _entropy(probability).mean(axis=0)).mean())


def _entropy(probability: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "..."]:
    return -(probability * np.log(probability)).sum(axis=-1)
