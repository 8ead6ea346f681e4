"""Semantic segmentation: the task, and its prediction of class ids and confidences."""

import colorsys
import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from diffsight.errors import InputError, suggest
from diffsight.label_maps import resolve_class_names
from diffsight.losses.boxes import check_projections, partial_label_nll, projection_nll
from diffsight.losses.lovasz import lovasz_softmax
from diffsight.outputs import Classes, Output, OutputSpec, SoftLabels
from diffsight.tasks.base import AbstractTask, LabelMaps, count_classes, distribution_loss
from diffsight.tasks.prediction import Colour, Prediction, PredictionSet, StoredArray
from diffsight.types import Boxes, ErrorKind, Map, Mask, Masks, Picture, PixelErrors, Target

NO_LABEL = -1  # id of a pixel without a label
HUE_STEP = 0.301  # hue difference of two classes; with it, 20 or 150 colours differ clearly
HIGHEST_ID = 65535  # largest id in a file of one channel


class Segmentation(AbstractTask):
    """Semantic segmentation: one class per pixel.

    Labels are class numbers from 0, in the order of the names.

    Args:
        names: names of the classes, or the name of a list in ``label_maps``.
        ids: ids of the classes in label files and predictions; default: the class numbers.
        colours: RGB colours of the classes, 0 to 255; default: ``palette``.
        weights: weights of the classes in the loss; default: all 1.
        lovasz_weight: weight of the Lovász-softmax loss (Meta Prompts: 1).
        auxiliary_weight: weight of the cross-entropy of a method's auxiliary head, if it has one.
        average: number of pixels that divides the sum of the cross-entropy: those with a label, or
            all (mmsegmentation 0.30, with which the authors of VPD and Meta Prompts trained).
        label: key of ``Sample.labels``.

    Raises:
        InputError: for fewer than two names or a repeated name, or if there is not one id, colour
            or weight per class.
    """

    metric_name = "mIoU, %"
    higher_is_better = True
    has_prediction_sets = True

    def __init__(
        self,
        names: str | Sequence[str],
        *,
        ids: Sequence[int] | None = None,
        colours: Sequence[Colour] | None = None,
        weights: Sequence[float] | None = None,
        lovasz_weight: float = 0.0,
        auxiliary_weight: float = 0.4,
        average: Literal["labelled", "all"] = "labelled",
        label: str = "semantic",
    ) -> None:
        super().__init__()
        names = resolve_class_names(names)
        if len(set(names)) != len(names) or len(names) < 2:
            raise InputError("segmentation needs two or more different class names")
        for option, values in (("ids", ids), ("colours", colours), ("weights", weights)):
            if values is not None and len(values) != len(names):
                raise InputError(f"{len(names)} classes, but {len(values)} {option}: give one each")
        self.class_names = names
        self.ids = tuple(range(len(names)) if ids is None else ids)
        self.names: Mapping[int, str] = dict(zip(self.ids, names, strict=True))
        chosen = palette(len(names)) if colours is None else [(r, g, b) for r, g, b in colours]
        self.colours = dict(zip(self.ids, chosen, strict=True))
        self.weights = None if weights is None else torch.tensor(weights)
        self.lovasz_weight = lovasz_weight
        self.auxiliary_weight = auxiliary_weight
        self.average: Literal["labelled", "all"] = average
        self.label = label
        self._allowed: Tensor | None = None

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """Logits or probabilities of the classes."""
        return (OutputSpec("classes", len(self.class_names)),)

    def restrict_to(self, names: Sequence[str]) -> Self:
        """Return a copy of the task that predicts only these classes; ids stay the same.

        Raises:
            InputError: for an unknown name (suggesting the nearest), a repeated one, or no name.
        """
        classes = self.class_names
        for name in names:
            if name not in classes:
                raise InputError(f"unknown class {name!r}: {suggest(name, classes)}")
        if len(set(names)) < len(names) or not names:
            raise InputError(f"classes {', '.join(names)}: give different names, at least one")
        task = copy.copy(self)
        task._allowed = torch.tensor([name in names for name in classes])
        return task

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the cross-entropy, a mean over the pixels with a label, weighted by class.

        The Lovász-softmax loss and the cross-entropy of an auxiliary head are added with their
        weights. Without any labelled pixel the loss is 0 and still has a gradient. If the target
        has boxes, the mean includes pixels in boxes, and the projection loss is added
        (``losses.boxes``).
        """
        output = Classes.expect(output)
        if target.boxes is not None:
            return self._loss_with_boxes(output, target, target.boxes)
        if output.space == "probabilities":
            soft = soft_labels or self.encode_label(target.label)
            loss = distribution_loss(output.maps, soft, target.valid)
            return {"loss": loss, "class": loss.detach()}
        loss = self._cross_entropy(output.maps, target)
        parts = {"cross_entropy": loss.detach()}
        if self.lovasz_weight:
            lovasz = lovasz_softmax(output.probabilities, target.label, target.valid)
            loss, parts["lovasz"] = loss + self.lovasz_weight * lovasz, lovasz.detach()
        if output.auxiliary is not None and self.auxiliary_weight:
            auxiliary = self._cross_entropy(output.auxiliary, target)
            loss, parts["auxiliary"] = loss + self.auxiliary_weight * auxiliary, auxiliary.detach()
        return {"loss": loss, **parts}

    def _cross_entropy(self, logits: Float[Tensor, "b k h w"], target: Target) -> Float[Tensor, ""]:
        weight = None if self.weights is None else self.weights.to(logits)
        ids = torch.where(target.valid, target.label, NO_LABEL)
        total = functional.cross_entropy(
            logits.float(), ids, weight=weight, ignore_index=NO_LABEL, reduction="sum"
        )
        if self.average == "all":
            return total / ids.numel()
        counts = target.valid if weight is None else weight[ids.clamp(min=0)] * target.valid
        return total / counts.sum().clamp(min=1e-6)

    def _loss_with_boxes(
        self, output: Classes, target: Target, boxes: Sequence[Boxes | None]
    ) -> dict[str, Tensor]:
        log_p = output.log_probabilities
        weight = torch.ones(len(log_p[0])) if self.weights is None else self.weights
        weights = weight.to(log_p)[target.label.clamp(0, len(weight) - 1)] * target.valid
        ids = self.encode_label(target.label).ids
        nll = -(log_p.gather(1, ids)[:, 0] * weights).sum()
        partial, count = partial_label_nll(log_p, boxes, target.valid)
        likelihood = (nll + partial) / (weights.sum() + count).clamp(min=1e-6)
        projection = projection_nll(log_p, boxes)
        parts = {"cross_entropy": likelihood.detach(), "projection": projection.detach()}
        return {"loss": likelihood + projection, **parts}

    def encode_label(self, label: Int[Tensor, "b h w"]) -> SoftLabels:
        """Return one class per pixel; numbers out of range become those of the nearest class."""
        return SoftLabels.hard(label.clamp(0, len(self.class_names) - 1))

    def decode(self, output: Output) -> list["ClassPrediction"]:
        """Return one prediction per image: the id of the most probable allowed class per pixel."""
        confidence, index = self._allowed_probabilities(output).max(dim=1)
        ids = torch.tensor(self.ids, device=index.device)[index]
        return self._predictions(ids, confidence, Classes.expect(output).uncertainty)

    def truth(self, target: Target) -> list["ClassPrediction"]:
        """Return the labels as perfect predictions, with id -1 where there is no label."""
        stored = torch.tensor(self.ids, device=target.label.device)
        ids = torch.where(target.valid, stored[self.encode_label(target.label).ids[:, 0]], NO_LABEL)
        return self._predictions(ids, target.valid.float())

    def _predictions(
        self, ids: Tensor, confidence: Tensor, uncertainty: Tensor | None = None
    ) -> list["ClassPrediction"]:
        uncertainties = itertools.repeat(None) if uncertainty is None else uncertainty[:, 0]
        rows = zip(ids, confidence, uncertainties, strict=False)
        return [ClassPrediction(i, c, self.names, self.colours, u) for i, c, u in rows]

    def to_label(self, output: Output) -> Int[Tensor, "b h w"]:
        """Return the number of the most probable class at every pixel."""
        output = Classes.expect(output)
        return output.maps.argmax(dim=1)

    def measure(self, label: Int[Tensor, "b h w"], target: Target) -> Float64[Tensor, "n n"]:
        """Return the number of pixels by true class (rows) and predicted class (columns).

        In a box, every row and column of pixels counts as half of its pixels. Their true class is
        that of the box. Their predicted class is the same if it is predicted anywhere in the row or
        column, else the background.
        """
        n = len(self.class_names)
        pair = target.label * n + label
        sums = torch.bincount(pair[target.valid], minlength=n * n).double().reshape(n, n)
        for ids, boxes in zip(label, target.boxes or [None] * len(label), strict=True):
            if boxes is None:
                continue
            for number, pixels, hit in check_projections(ids, boxes):
                sums[number, number] += pixels[hit].sum()
                sums[number, boxes.background] += pixels[~hit].sum()
        return sums

    def score(self, sums: Float64[Tensor, "n n"]) -> float:
        """Return the mean IoU in percent over the classes that occur in the labels."""
        return 100 * float(_iou(sums)[sums.sum(dim=1) > 0].mean())

    def figures(self, sums: Float64[Tensor, "n n"]) -> dict[str, float]:
        """Return mean IoU, pixel accuracy, and the IoU of each class in the labels, in percent."""
        total = float(sums.sum())
        occurs = (sums.sum(dim=1) > 0).tolist()
        rows = zip(self.class_names, _iou(sums).tolist(), occurs, strict=True)
        return {
            self.metric_name: self.score(sums),
            "pixel accuracy, %": 100 * float(sums.diagonal().sum()) / max(total, 1.0),
            **{f"IoU {name}, %": 100 * iou for name, iou, is_present in rows if is_present},
        }

    def nonconformity(self, output: Output, label: Int[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """Return 1 minus the probability of the label's class.

        Of all prediction sets with the same coverage, these are the smallest on average (Sadinle et
        al. 2019).
        """
        ids = self.encode_label(label).ids.to(output.stack.device)
        probability = Classes.expect(output).probabilities.gather(1, ids)[:, 0]
        return (1 - probability).nan_to_num(nan=math.inf, posinf=math.inf)

    def prediction_set(self, output: Output, q: float) -> PredictionSet:
        """Return ``set``: masks ``k h w`` of the pixels whose set has the class.

        The most probable class is always in the set of a pixel. The model abstains where a set has
        several classes.
        """
        probability = Classes.expect(output).probabilities[0]
        is_in_set = 1 - probability <= q
        is_in_set.scatter_(0, probability.argmax(dim=0, keepdim=True), value=True)
        meaning = {
            "abstain_where": "the set of a pixel has several classes",
            "set_is": "a mask for every class, in the order of names",
        }
        arrays = {"set": StoredArray(is_in_set.cpu().numpy())}
        return PredictionSet(arrays, (is_in_set.sum(dim=0) > 1).cpu(), meaning)

    @property
    def error_kind(self) -> ErrorKind:
        """``classes``: a predicted class is right or wrong."""
        return "classes"

    def pixel_errors(self, prediction: Prediction, target: Target) -> PixelErrors:
        """Return an error of 0 or 1 per pixel, and the uncertainty (or 1 minus the confidence)."""
        predicted = ClassPrediction.expect(prediction)
        wrong = (predicted.to_label() != target.label[0].to(predicted.ids.device)).float()
        confidence, std = predicted.confidence.float(), predicted.uncertainty
        return PixelErrors(wrong, 1 - confidence if std is None else std.float(), confidence)

    def totals(self, label: Int[Tensor, "h w"], valid: Mask) -> Mapping[str, float]:
        """Return ``area.NAME`` of every class: its fraction of the valid pixels."""
        count = torch.bincount(label[valid], minlength=len(self.class_names)).double()
        areas = (count / count.sum().clamp(min=1)).tolist()
        return {f"area.{name}": area for name, area in zip(self.class_names, areas, strict=True)}

    def constant(self, label: Int[Tensor, "b h w"], valid: Masks) -> Int[Tensor, ""]:
        """Return the number of the most frequent class; without labels, 0."""
        return torch.bincount(label[valid], minlength=len(self.class_names)).argmax()

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the most frequent class (1 x 1), and that of every pixel position (``h w``)."""
        counts = count_classes(labels, len(self.class_names))
        majority = counts.flatten(1).sum(dim=1).argmax()
        nowhere = counts.sum(dim=0) == 0
        by_position = torch.where(nowhere, majority, counts.argmax(dim=0))
        return {"constant majority": majority.reshape(1, 1), "majority map": by_position}

    def _allowed_probabilities(self, output: Output) -> Float[Tensor, "b k h w"]:
        output = Classes.expect(output)
        if self._allowed is None:
            return output.probabilities
        log_p = output.log_probabilities
        refused = ~self._allowed.to(log_p.device).bool()[:, None, None]
        return log_p.masked_fill(refused, -math.inf).softmax(dim=1)


@dataclass(frozen=True)
class ClassPrediction(Prediction):
    """The predicted classes of one image.

    Attributes:
        ids: class ids, as in label files.
        confidence: probability of the predicted class.
        names: names of the classes by id.
        palette: RGB colours of the classes by id.
        uncertainty: uncertainty in [0, 1], if the method estimates it besides the confidence.
    """

    ids: Int[Tensor, "h w"]
    confidence: Map
    names: Mapping[int, str]
    palette: Mapping[int, Colour]
    uncertainty: Map | None = None
    kind = "classes"

    @classmethod
    def expect(cls, prediction: Prediction) -> "ClassPrediction":
        """Return the prediction, after a check of its class.

        Raises:
            TypeError: if the prediction has another class.
        """
        if not isinstance(prediction, cls):
            raise TypeError(f"expected {cls.__name__}, got {type(prediction).__name__}")
        return prediction

    @property
    def ids_are_colours(self) -> bool:
        """Whether ids are colours as 24-bit numbers (red * 65536 + green * 256 + blue)."""
        colours = ((r << 16 | g << 8 | b) for r, g, b in self.palette.values())
        return bool(self.palette) and list(self.palette) == list(colours)

    def to_label(self) -> Int[Tensor, "h w"]:
        """Return the numbers of the classes, in the order of their names."""
        ids = self.ids.long()
        sorted_ids, order = torch.tensor(list(self.names), device=ids.device).sort()
        position = torch.searchsorted(sorted_ids, ids).clamp(max=len(sorted_ids) - 1)
        return torch.where(sorted_ids[position] == ids, order[position], 0)

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``classes`` (ids, palette indices or colours), ``confidence``, ``uncertainty``."""
        ids = self.ids.cpu().numpy()
        if self._in_colours:
            pixels = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=2).astype(np.uint8)
            classes = StoredArray(pixels)
        elif max(self.names) >= 256:
            classes = StoredArray(ids.astype(np.uint16))
        else:
            classes = StoredArray(ids.astype(np.uint8), palette=self.palette)
        arrays = {"classes": classes}
        for name, values in (("confidence", self.confidence), ("uncertainty", self.uncertainty)):
            if values is not None:
                arrays[name] = StoredArray(values.half().cpu().numpy())
        return arrays

    def metadata(self) -> dict[str, Any]:
        """Return size (width, height), encoding of ids, names, and number of pixels per class."""
        return {
            "size": list(self.hw[::-1]),
            "classes_are": self._encoding,
            "names": {str(number): name for number, name in self.names.items()},
            "pixels": {name: int((self.ids == n).sum()) for n, name in self.names.items()},
            "confidence_median": round(float(self.confidence.median()), 4),
        }

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return the classes in their colours; black where there is no class."""
        picture = torch.zeros(3, *self.ids.shape, dtype=torch.uint8)
        ids = self.ids.cpu()
        for number, colour in self.palette.items():
            picture[:, ids == number] = torch.tensor(colour, dtype=torch.uint8)[:, None]
        return picture

    def legend(self) -> dict[str, Colour]:
        """Return the colours of the classes that occur, by name."""
        shown = set(self.ids.unique().tolist()) & self.names.keys()
        return {self.names[n]: rgb for n, rgb in self.palette.items() if n in shown}

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of truth, prediction and error (red; none where there is no label)."""
        wrong = ((self.ids != other.ids) & (self.ids != NO_LABEL)).cpu()
        error = torch.full((3, *wrong.shape), 245, dtype=torch.uint8)
        error[1:, wrong] = 60
        return self.draw(), other.draw(), error

    @property
    def _in_colours(self) -> bool:
        return self.ids_are_colours or max(self.names) > HIGHEST_ID

    @property
    def _encoding(self) -> str:
        if self._in_colours:
            return "colours, numbered by names"
        small = max(self.names) < 256
        return "palette indices, the ids of names" if small else "16-bit ids of names"


def _iou(sums: Float64[Tensor, "n n"]) -> Float64[Tensor, " n"]:
    """Return the intersection over union of every class; 0 for a class that does not occur."""
    intersection = sums.diagonal()
    return intersection / (sums.sum(dim=1) + sums.sum(dim=0) - intersection).clamp(min=1)


def palette(count: int) -> list[Colour]:
    """Return distinct RGB colours for a number of classes; they are the same in every run."""
    rows = []
    for i in range(count):
        value, saturation = (0.95, 0.75, 0.55)[i % 3], (0.65, 0.9)[i // 3 % 2]
        r, g, b = colorsys.hsv_to_rgb(i * HUE_STEP % 1, saturation, value)
        rows.append((round(255 * r), round(255 * g), round(255 * b)))
    return rows
