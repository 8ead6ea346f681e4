"""Evaluation protocols of bird's-eye-view maps around a vehicle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torchmetrics import Metric

from diffsight.errors import InputError
from diffsight.ops.map_counts import THRESHOLDS
from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class MapProtocol(AbstractProtocol):
    """Rules for scoring bird's-eye-view maps with ``miou``, see ``MapIoU``.

    Each class is scored at its best probability threshold, as BEVFusion does.

    Attributes:
        cells: required number of cells along each axis, or None for any number.
    """

    cells: int | None
    kind: ClassVar[str] = "map"
    scores: ClassVar[str] = "maps around a vehicle"

    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""
        low, *_, high = THRESHOLDS
        return f"{self.title()}, every class at its best threshold of {low:.2f} to {high:.2f}"

    def metric(self, task: AbstractTask) -> Metric:
        """Return a new metric for maps.

        Raises:
            InputError: if the task has no maps, or maps of another number of cells.
        """
        # imported here because torchmetrics is slow to import
        from diffsight.metrics.map_iou import MapIoU

        (spec, *_) = task.outputs
        if spec.grid is None:
            raise InputError(
                f"{self.name} scores {self.scores}, but a {type(task).__name__} task has none: "
                "choose another protocol"
            )
        if self.cells not in (None, spec.grid[0]):
            raise InputError(
                f"{self.name} is made for {self.cells} cells along each axis, the model has "
                f"{spec.grid[0]}: choose maps-v1"
            )
        return MapIoU(spec.channels)

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add the map of one sample to the metric.

        Raises:
            InputError: if the prediction is not a map.
        """
        self.require_kind(prediction)
        label = target.label.float()
        metric.update(prediction.to_label()[None].to(label.device), label, target.valid)
        return bool(target.valid.any())

    def per_class(self, metric: Any, names: Sequence[str]) -> dict[str, float]:
        """Return the IoU of every class, by name."""
        return dict(zip(names, metric.per_class().tolist(), strict=True))


NUSCENES_MAP_V1 = MapProtocol(
    name="nuscenes-map-v1",
    split="nuScenes v1.0 validation, 6,019 samples",
    plan="one pass",
    cells=200,
)
MAPS_V1 = MapProtocol(name="maps-v1", split="any", plan="one pass", cells=None)
