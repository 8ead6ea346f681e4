"""Suggest images of a folder that should be labelled next for a saved model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.adaptation.learning_curve import MIN_POINTS, Forecast, forecast_score
from diffsight.adaptation.suggest import (
    DISAGREEMENT_WEIGHT,
    Suggestion,
    fold_disagreement,
    grid_average,
    grid_features,
    suggest,
)
from diffsight.backbones.efficientnet import EfficientNetLite0
from diffsight.datasets.files import read_image
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError
from diffsight.methods.frozen import AbstractFrozenBackboneMethod
from diffsight.model import DenseModel
from diffsight.ops.resize import resize_image, working_hw
from diffsight.types import Inputs, Pyramid

FALLBACK = "efficientnet-lite0"  # features for models without a frozen backbone of their own
SHORT_SIDE_PX = 256  # for models that do not record their working size
MIN_FOLD_IMAGES = 2  # labelled images that a disagreement of folds needs
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSuggestions:
    """Images of a folder to label, the most helpful one first.

    Attributes:
        images: paths of the unlabelled images and of the labelled ones; ``Suggestion.image`` is an
            index of this list.
        ranking: the suggestions.
        labelled: number of labelled images.
        errors: reasons why images could not be used, by path.
    """

    images: Sequence[Path]
    ranking: Sequence[Suggestion]
    labelled: int
    errors: Mapping[Path, str]


@dataclass
class _Collection:
    """Features of different images, in the order in which they were added."""

    model: DenseModel
    backbone: Callable[[Inputs], Pyramid]
    has_grids: bool
    device: torch.device
    paths: list[Path] = field(default_factory=list)
    pooled: list[Float[np.ndarray, " c"]] = field(default_factory=list)
    grids: list[Float[np.ndarray, "p c"]] = field(default_factory=list)
    labels: dict[int, Float[np.ndarray, "p k"]] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, path: Path, *, is_labelled: bool) -> None:
        """Compute the features of an image, and the model's prediction if it is labelled."""
        pixels = read_image(path)
        side = self.model.info.get("short_side") or SHORT_SIDE_PX
        hw = working_hw(*pixels.shape[-2:], short_side=side)
        inputs = Inputs(resize_image(pixels[None].float() / 255, hw).to(self.device))
        levels = [level[0].float() for level in self.backbone(inputs).features]
        self.pooled.append(torch.cat([one.mean(dim=(1, 2)) for one in levels]).cpu().numpy())
        if self.has_grids:
            self.grids.append(grid_features([one.cpu().numpy() for one in levels]))
            if is_labelled:
                self.labels[len(self.paths)] = grid_average(self._predict(inputs).numpy())
        self.paths.append(path)

    def _predict(self, inputs: Inputs) -> Tensor:
        """Return values, or the probability of every class, ``k h w``."""
        output = self.model(inputs)
        label = self.model.task.to_label(output)
        if not label.is_floating_point():
            classes = len(self.model.task.class_names)
            label = functional.one_hot(label, classes).movedim(-1, 1).float()
        return label[0].float().cpu()


def suggest_images(
    images: Sequence[Path],
    model: DenseModel,
    *,
    labelled: Sequence[Path] = (),
    count: int = 10,
    disagreement_weight: float = DISAGREEMENT_WEIGHT,
    advance: Callable[[], None] = lambda: None,
) -> ImageSuggestions:
    """Return the images whose labels help most, see ``suggest``.

    Features are those of the model's frozen backbone, or of EfficientNet-Lite0 if its method has
    none. Copies of a file count once. The training images of the model count as labelled wherever
    they are found; ``model.info`` has the hashes of their files.

    The disagreement is that of linear heads on folds of the labelled images. Their labels are the
    predictions of the model, which was trained on these images, so no label file is needed.

    Args:
        images: image files.
        model: saved model.
        labelled: labelled image files that may be elsewhere.
        count: largest number of suggestions.
        disagreement_weight: power of the disagreement of the folds; 0 does not compute it.
        advance: called after every image.

    Raises:
        InputError: if the model reads camera rigs, if it needs a prompt or there are fewer than two
            labelled images although the disagreement is wanted, or if no image can be used.
    """
    if model.reads_rig:
        raise InputError("the model reads camera rigs: give a model that reads single images")
    wants_folds = disagreement_weight > 0
    if wants_folds and model.requires_prompt:
        raise InputError(
            "the model needs a prompt for every image, so its folds cannot be compared: set the "
            "disagreement weight to 0"
        )
    device = next(model.parameters()).device
    collection = _Collection(model.eval(), _backbone(model, device), wants_folds, device)
    rows, errors = _collect(collection, labelled, images, advance)
    if not collection.paths:
        raise InputError(next(iter(errors.values()), "there is no image: give a folder of images"))
    disagreement = None
    if wants_folds:
        is_classes = bool(model.task.class_names)
        disagreement = fold_disagreement(collection.grids, collection.labels, is_classes=is_classes)
        if disagreement is None:
            raise InputError(
                f"the disagreement needs at least {MIN_FOLD_IMAGES} labelled images, and "
                f"{len(rows)} were found: give their folder with --labelled"
            )
    result = suggest(
        np.stack(collection.pooled),
        rows,
        disagreement=disagreement,
        disagreement_weight=disagreement_weight,
        count=count,
    )
    return ImageSuggestions(collection.paths, result.ranking, len(rows), errors)


def _collect(
    collection: _Collection,
    labelled: Sequence[Path],
    images: Sequence[Path],
    advance: Callable[[], None],
) -> tuple[list[int], dict[Path, str]]:
    """Add all different images; return the rows of the labelled ones, and the errors by path."""
    training = {*collection.model.info.get("samples", ())}
    seen, rows, errors = set[str](), list[int](), dict[Path, str]()
    for path, is_given in [*((p, True) for p in labelled), *((p, False) for p in images)]:
        try:
            content = content_hash(path)
            is_labelled = is_given or content in training
            if content not in seen:
                collection.add(path, is_labelled=is_labelled)
                seen.add(content)
                rows += [len(collection.paths) - 1] * is_labelled
        except InputError as error:
            errors[path] = str(error)
        advance()
    if missing := len(training - seen):
        log.info(
            "%d of the model's %d training images were not found, so images that resemble them "
            "may be suggested: give their folder with --labelled",
            missing,
            len(training),
        )
    return rows, errors


def forecast_models(infos: Sequence[Mapping[str, Any]], model: DenseModel) -> Forecast | None:
    """Return a forecast from the held-out scores of models with different numbers of images.

    Args:
        infos: ``DenseModel.info`` of earlier models of the same task.
        model: the latest model.

    Returns:
        The forecast; None if fewer than three numbers of images have a score.

    Raises:
        InputError: if the models have different metrics.
    """
    history, metric = [], model.task.metric_name
    for info in (*infos, model.info):
        score = info.get("held_out", {}).get(info.get("chosen"))
        if score is None:
            continue
        if info.get("metric") != metric:
            raise InputError(
                f"the models have different metrics ({info.get('metric')} and {metric}): give "
                "models of one task"
            )
        history.append((len(info["samples"]), score))
    is_percent = metric.endswith("%")
    bounds = (0.0, 100.0 if is_percent else np.inf)
    better = model.task.higher_is_better
    forecast = forecast_score(history, higher_is_better=better, bounds=bounds)
    if infos and forecast is None:
        counts = {count for count, score in history if np.isfinite(score)}
        log.info(
            "no forecast: it needs the held-out scores for %d different numbers of labelled "
            "images, and the models have them for %d: give more models with --earlier",
            MIN_POINTS,
            len(counts),
        )
    return forecast


def _backbone(model: DenseModel, device: torch.device) -> Callable[[Inputs], Pyramid]:
    """Return a function from an image to the features of a frozen network."""
    if isinstance(model.method, AbstractFrozenBackboneMethod):
        return model.method.pyramid
    return EfficientNetLite0(FALLBACK).to(device).forward_inputs
