"""Maps seen from above: classes that may overlap on a grid of cells around a vehicle (DDP)."""

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
from diffsight.ops.resize import resized_label
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
IS_THERE = 0.5  # a class is drawn and counted above this probability


class BEV(AbstractTask):
    """Classes of the cells around a vehicle; a cell may be of several, or of none.

    The label is ``k x y`` of zeros and ones, the vehicle in the middle.

    Args:
        names: of the classes.
        cells: along each axis.
        cell_m: length of a cell in metres.
        gamma: of the focal loss, whose weights of the two sides are equal.
        label: key of ``Sample.labels``.
        forward_axis: axis of the map that runs forward: ``x``, with y to the left, or ``y``, with x
            to the right, as in the frame of nuScenes' LiDAR.

    Raises:
        InputError: if names are repeated, or there is no cell.
    """

    metric_name = "mean IoU, %"
    higher_is_better = True
    is_mirrorable = False  # a mirrored camera is another one

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
        """Masks on the grid of cells."""
        return (OutputSpec("masks", len(self.names), grid=(self.cells, self.cells)),)

    def restrict_to(self, names: Sequence[str]) -> Self:
        """Refuse: maps keep all their classes.

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
        there = torch.where(valid, target.label.float(), 0)
        nll = functional.binary_cross_entropy_with_logits(logits, there, reduction="none")
        of_truth = torch.where(there > 0.5, logits.sigmoid(), 1 - logits.sigmoid())
        focal = nll * (1 - of_truth) ** self.gamma
        loss = torch.where(valid, focal, 0).sum() / target.valid.sum().clamp(min=1)
        return {"loss": loss, "focal": loss.detach()}

    def decode(self, output: Output) -> list["BEVPrediction"]:
        """Return the probabilities of the cells."""
        output = Masks.expect(output)
        doubts = [None] * len(output.maps)
        if output.uncertainty is not None:
            doubts = list(output.uncertainty[:, 0])
        return [
            BEVPrediction(one, self.names, self.cell_m, self.forward_axis, doubt)
            for one, doubt in zip(output.probabilities, doubts, strict=True)
        ]

    def truth(self, target: Target) -> list["BEVPrediction"]:
        """Return the labels as perfect predictions."""
        about = (self.names, self.cell_m, self.forward_axis)
        return [BEVPrediction(one.float(), *about) for one in target.label]

    def to_label(self, output: Output) -> Maps:
        """Return the probabilities."""
        return Masks.expect(output).probabilities

    def measure(self, label: Maps, target: Target) -> Float64[Tensor, "7 k 3"]:
        """Return true and false positives and false negatives, by threshold and class."""
        return count_cells(label, target.label.float(), target.valid)

    def score(self, sums: Float64[Tensor, "7 k 3"]) -> float:
        """Return the mean IoU in percent, each class at its best threshold (BEVFusion)."""
        return 100 * float(best_iou(sums).mean())

    def figures(self, sums: Float64[Tensor, "7 k 3"]) -> dict[str, float]:
        """Return the mean IoU, and that of every class."""
        best = zip(self.names, best_iou(sums).tolist(), strict=True)
        return {
            self.metric_name: self.score(sums),
            **{f"IoU {name}, %": 100 * iou for name, iou in best},
        }

    def constant(self, label: Maps, valid: ValidMasks) -> Float[Tensor, " k"]:
        """Return the fraction of the cells that is of each class."""
        return label.movedim(1, -1)[valid].float().mean(dim=0)

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the fraction of every class, everywhere and in every cell."""
        total = count = torch.zeros(())
        for values, valid in labels:
            total = total + torch.where(valid, values.float(), 0)
            count = count + valid
        mean = total / count.clamp(min=1)
        everywhere = total.sum(dim=(1, 2), keepdim=True) / count.sum().clamp(min=1)
        return {"constant mean": everywhere, "mean map": mean}

    def oriented(self, values: Map) -> Map:
        """Return a map of the cells with forward up."""
        return _forward_up(values, self.forward_axis)

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the map as it is, whatever the size of an image, and where it is valid."""
        return sample.labels[self.label], sample.valid[self.label]

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: Prediction, prediction: Prediction
    ) -> UInt8[Tensor, "3 h _"]:
        """Return the cameras, truth, prediction and error side by side; the image is in [0, 1]."""
        return _side_by_side(image, *truth.draw_with(prediction, image))

    def from_baseline(self, baseline: Tensor, target: Target) -> "BEVPrediction":
        """Return a baseline as a prediction."""
        size = target.valid.shape[-2:]
        maps = functional.interpolate(baseline[None].float(), size, mode="nearest")[0]
        return BEVPrediction(maps, self.names, self.cell_m, self.forward_axis)


@dataclass(frozen=True)
class BEVPrediction(Prediction):
    """A map around a vehicle.

    Attributes:
        probability: of every class; the axes are x and y.
        names: of the classes.
        cell_m: length of a cell in metres.
        forward_axis: axis of the map that runs forward.
        uncertainty: in [0, 1], of a method that gives one.
    """

    probability: Float[Tensor, "k h w"]
    names: tuple[str, ...]
    cell_m: float
    forward_axis: ForwardAxis = "x"
    uncertainty: Map | None = None
    kind = "map"

    def to_label(self) -> Float[Tensor, "k h w"]:
        """Return the probabilities."""
        return self.probability

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``map`` (``h w k`` of probabilities), and the uncertainty."""
        found = {"map": StoredArray(self.probability.movedim(0, -1).half().cpu().numpy())}
        if self.uncertainty is not None:
            found["uncertainty"] = StoredArray(self.uncertainty.half().cpu().numpy())
        return found

    def metadata(self) -> dict[str, Any]:
        """Return the classes, the cells and their axes."""
        there = (self.probability > IS_THERE).float().mean(dim=(1, 2))
        fractions = [round(float(one), 6) for one in there]
        return {
            "size": list(self.hw[::-1]),
            "classes": list(self.names),
            "cell_m": self.cell_m,
            "axes": f"rows run {AXES[self.forward_axis]}; the vehicle is in the middle",
            "fraction_of_cells": dict(zip(self.names, fractions, strict=True)),
        }

    def draw(self, image: Float[Tensor, "3 _ _"] | None = None) -> Picture:
        """Draw later classes over earlier ones, on white; forward is up, left is left."""
        picture = torch.full((3, *self.hw), 255, dtype=torch.uint8)
        there = (self.probability > IS_THERE).cpu()
        for mask, colour in zip(there, self.legend().values(), strict=True):
            picture[:, mask] = torch.tensor(colour, dtype=torch.uint8)[:, None]
        return _forward_up(picture, self.forward_axis)

    def overview(self, image: Float[Tensor, "3 _ _"] | None = None) -> UInt8[Tensor, "3 _ _"]:
        """Return the cameras and the map side by side."""
        return self.draw() if image is None else _side_by_side(image, self.draw())

    def legend(self) -> dict[str, Colour]:
        """Return the colours of the classes."""
        return dict(zip(self.names, palette(len(self.names)), strict=True))

    def draw_with(self, other: Any, image: Float[Tensor, "3 _ _"]) -> tuple[Picture, ...]:
        """Return truth, prediction and error: red where a class is wrong."""
        wrong = ((self.probability > IS_THERE) != (other.probability > IS_THERE)).any(dim=0).cpu()
        error = torch.full((3, *wrong.shape), 245, dtype=torch.uint8)
        error[1:, wrong] = 60
        return self.draw(), other.draw(), _forward_up(error, self.forward_axis)


def _forward_up(cells: Tensor, forward_axis: ForwardAxis) -> Tensor:
    """Return cells, whose last axes are x and y, as a picture with forward up."""
    return cells.flip((-2, -1)) if forward_axis == "x" else cells.transpose(-2, -1).flip(-2)


def _side_by_side(
    image: Float[Tensor, "3 _ _"], *maps: UInt8[Tensor, "3 _ _"]
) -> UInt8[Tensor, "3 _ _"]:
    """Return an image and maps of its height, side by side."""
    height = image.shape[-2]
    sizes = ((height, round(one.shape[-1] * height / one.shape[-2])) for one in maps)
    drawn = [resized_label(one, hw) for one, hw in zip(maps, sizes, strict=True)]
    return torch.cat([to_pixels(image), *drawn], dim=2)
