"""BEV map segmentation: classes that may overlap, on a grid of cells around a vehicle (DDP)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.label_maps import NUSCENES_CLASSES
from diffsight.ops.map_counts import best_iou, count_cells, require_same_cells
from diffsight.ops.resize import resize_label
from diffsight.outputs import Masks, Output, OutputSpec, SoftLabels
from diffsight.rig import check_cells
from diffsight.tasks.base import AbstractTask, LabelMaps
from diffsight.tasks.prediction import Colour, Prediction, StoredArray, to_pixels
from diffsight.tasks.segmentation import palette
from diffsight.types import Map, Maps, Picture, Target
from diffsight.types import Masks as ValidMasks

MIN_PROBABILITY = 1e-6
ForwardAxis = Literal["x", "y"]
AXES = {
    "x": "forward (x), columns to the left (y)",
    "y": "to the right (x), columns forward (y)",
}
THRESHOLD = 0.5  # a class is drawn and counted above this probability


class BEV(AbstractTask):
    """Map segmentation around a vehicle; a cell of the map may have several classes, or none.

    The label has the shape ``k x y`` (classes and cells) and is 0 or 1; the vehicle is in the
    middle.

    Args:
        names: names of the classes.
        cells: number of cells along each axis.
        cell_m: length of a cell in metres.
        gamma: focusing parameter of the focal loss; positive and negative cells have equal weight.
        label: key of ``Sample.labels``.
        forward_axis: axis of the map that points forward: ``x``, with y to the left, or ``y``,
            with x to the right, as in the frame of nuScenes' LiDAR.

    Raises:
        InputError: if a name is repeated, or there are no names or cells.
    """

    metric_name = "mean IoU, %"
    higher_is_better = True
    is_mirrorable = False  # the calibration of a mirrored camera differs

    def __init__(
        self,
        names: Sequence[str] = NUSCENES_CLASSES,
        *,
        cells: int = 200,
        cell_m: float = 0.5,
        gamma: float = 2.0,
        label: str = "map",
        forward_axis: ForwardAxis = "x",
    ) -> None:
        super().__init__()
        if len(set(names)) != len(names) or not names:
            raise InputError("maps need one or more different class names")
        check_cells(cells, cell_m)
        self.names = self.class_names = tuple(names)
        self.cells = cells
        self.cell_m = cell_m
        self.gamma = gamma
        self.label = label
        self.map_cells = (cells, cell_m)
        self.forward_axis: ForwardAxis = forward_axis

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """One mask per class on the grid of cells."""
        return (OutputSpec("masks", len(self.names), grid=(self.cells, self.cells)),)

    def restrict_to(self, names: Sequence[str]) -> Self:
        """Raise an error, because maps always have all their classes.

        Raises:
            InputError: always.
        """
        raise InputError("maps keep all their classes: leave --classes out")

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the focal loss (Lin et al., 2017): mean over cells, sum over classes."""
        output = Masks.expect(output)
        require_same_cells(output.hw, target.label)
        logits = output.maps.float()
        if output.space == "probabilities":
            logits = logits.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit()
        valid = target.valid[:, None].expand_as(logits)
        label = torch.where(valid, target.label.float(), 0)
        nll = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        probability = torch.where(label > 0.5, logits.sigmoid(), 1 - logits.sigmoid())
        focal = nll * (1 - probability) ** self.gamma
        loss = torch.where(valid, focal, 0).sum() / target.valid.sum().clamp(min=1)
        return {"loss": loss, "focal": loss.detach()}

    def decode(self, output: Output) -> list["BEVPrediction"]:
        """Return the class probabilities of the cells, one prediction per image."""
        output = Masks.expect(output)
        uncertainties = [None] * len(output.maps)
        if output.uncertainty is not None:
            uncertainties = list(output.uncertainty[:, 0])
        return [
            BEVPrediction(probability, self.names, self.cell_m, self.forward_axis, uncertainty)
            for probability, uncertainty in zip(output.probabilities, uncertainties, strict=True)
        ]

    def truth(self, target: Target) -> list["BEVPrediction"]:
        """Return the labels as perfect predictions."""
        grid = (self.names, self.cell_m, self.forward_axis)
        return [BEVPrediction(label.float(), *grid) for label in target.label]

    def to_label(self, output: Output) -> Maps:
        """Return the class probabilities of the cells."""
        return Masks.expect(output).probabilities

    def measure(self, label: Maps, target: Target) -> Float64[Tensor, "7 k 3"]:
        """Return counts of true positives, false positives and false negatives.

        The axes are threshold, class and kind of count.
        """
        return count_cells(label, target.label.float(), target.valid)

    def score(self, sums: Float64[Tensor, "7 k 3"]) -> float:
        """Return the mean IoU in percent, each class at its best threshold, as in BEVFusion."""
        return 100 * float(best_iou(sums).mean())

    def figures(self, sums: Float64[Tensor, "7 k 3"]) -> dict[str, float]:
        """Return the mean IoU and the IoU of every class, in percent."""
        best = zip(self.names, best_iou(sums).tolist(), strict=True)
        return {
            self.metric_name: self.score(sums),
            **{f"IoU {name}, %": 100 * iou for name, iou in best},
        }

    def constant(self, label: Maps, valid: ValidMasks) -> Float[Tensor, " k"]:
        """Return for each class its fraction of the valid cells."""
        return label.movedim(1, -1)[valid].float().mean(dim=0)

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return how frequent each class is, over all cells and at every cell.

        Returns:
            ``constant mean``, ``k 1 1``, and ``mean map``, ``k x y``; both are fractions.
        """
        total = count = torch.zeros(())
        for values, valid in labels:
            total = total + torch.where(valid, values.float(), 0)
            count = count + valid
        mean = total / count.clamp(min=1)
        everywhere = total.sum(dim=(1, 2), keepdim=True) / count.sum().clamp(min=1)
        return {"constant mean": everywhere, "mean map": mean}

    def oriented(self, values: Map) -> Map:
        """Return a map of the cells rotated so that forward is up."""
        return _forward_up(values, self.forward_axis)

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the label in its own size, and its mask of valid cells; ``hw`` is not used."""
        return sample.labels[self.label], sample.valid[self.label]

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: Prediction, prediction: Prediction
    ) -> UInt8[Tensor, "3 h _"]:
        """Return camera images, truth, prediction and error side by side.

        Args:
            image: camera images in one picture, in [0, 1].
            truth: labels of the map.
            prediction: predicted map.
        """
        return _side_by_side(image, *truth.draw_with(prediction, image))

    def from_baseline(self, baseline: Tensor, target: Target) -> "BEVPrediction":
        """Return a baseline as the prediction for an image."""
        size = target.valid.shape[-2:]
        maps = functional.interpolate(baseline[None].float(), size, mode="nearest")[0]
        return BEVPrediction(maps, self.names, self.cell_m, self.forward_axis)


@dataclass(frozen=True)
class BEVPrediction(Prediction):
    """A predicted map around a vehicle.

    Attributes:
        probability: probability of every class in each cell; the last two axes are x and y.
        names: names of the classes.
        cell_m: length of a cell in metres.
        forward_axis: axis of the map that points forward.
        uncertainty: uncertainty of each cell in [0, 1]; None if the method has none.
    """

    probability: Float[Tensor, "k h w"]
    names: tuple[str, ...]
    cell_m: float
    forward_axis: ForwardAxis = "x"
    uncertainty: Map | None = None
    kind = "map"

    def to_label(self) -> Float[Tensor, "k h w"]:
        """Return the class probabilities of the cells."""
        return self.probability

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``map`` (probabilities, ``h w k``) and, if there is one, ``uncertainty``."""
        arrays = {"map": StoredArray(self.probability.movedim(0, -1).half().cpu().numpy())}
        if self.uncertainty is not None:
            arrays["uncertainty"] = StoredArray(self.uncertainty.half().cpu().numpy())
        return arrays

    def metadata(self) -> dict[str, Any]:
        """Return the classes, the size and axes of the grid, and the fraction of each class."""
        fraction = (self.probability > THRESHOLD).float().mean(dim=(1, 2))
        fractions = [round(float(f), 6) for f in fraction]
        return {
            "size": list(self.hw[::-1]),
            "classes": list(self.names),
            "cell_m": self.cell_m,
            "axes": f"rows run {AXES[self.forward_axis]}; the vehicle is in the middle",
            "fraction_of_cells": dict(zip(self.names, fractions, strict=True)),
        }

    def draw(self, image: Float[Tensor, "3 _ _"] | None = None) -> Picture:
        """Return the classes in their colours on white; forward is up.

        Later classes are drawn over earlier ones.
        """
        picture = torch.full((3, *self.hw), 255, dtype=torch.uint8)
        masks = (self.probability > THRESHOLD).cpu()
        for mask, colour in zip(masks, self.legend().values(), strict=True):
            picture[:, mask] = torch.tensor(colour, dtype=torch.uint8)[:, None]
        return _forward_up(picture, self.forward_axis)

    def overview(self, image: Float[Tensor, "3 _ _"] | None = None) -> UInt8[Tensor, "3 _ _"]:
        """Return the camera images and the map side by side."""
        return self.draw() if image is None else _side_by_side(image, self.draw())

    def legend(self) -> dict[str, Colour]:
        """Return the RGB colour of each class."""
        return dict(zip(self.names, palette(len(self.names)), strict=True))

    def draw_with(self, other: Any, image: Float[Tensor, "3 _ _"]) -> tuple[Picture, ...]:
        """Return pictures of truth, prediction and error (red where any class is wrong)."""
        masks, other_masks = self.probability > THRESHOLD, other.probability > THRESHOLD
        wrong = (masks != other_masks).any(dim=0).cpu()
        error = torch.full((3, *wrong.shape), 245, dtype=torch.uint8)
        error[1:, wrong] = 60
        return self.draw(), other.draw(), _forward_up(error, self.forward_axis)


def _forward_up(cells: Tensor, forward_axis: ForwardAxis) -> Tensor:
    """Return cells, whose last two axes are x and y, rotated so that forward is up."""
    return cells.flip((-2, -1)) if forward_axis == "x" else cells.transpose(-2, -1).flip(-2)


def _side_by_side(
    image: Float[Tensor, "3 _ _"], *maps: UInt8[Tensor, "3 _ _"]
) -> UInt8[Tensor, "3 _ _"]:
    """Return an image and maps side by side; the maps are resized to its height."""
    height = image.shape[-2]
    sizes = ((height, round(cells.shape[-1] * height / cells.shape[-2])) for cells in maps)
    resized = [resize_label(cells, hw) for cells, hw in zip(maps, sizes, strict=True)]
    return torch.cat([to_pixels(image), *resized], dim=2)
