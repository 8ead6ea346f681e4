"""The ground of a street scene: roads, walkways and paint, and the classes at a position."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from diffsight.label_maps import NUSCENES_CLASSES as CLASSES

DRIVABLE, CROSSING, WALKWAY, STOP_LINE, CAR_PARK, DIVIDER = range(len(CLASSES))
# materials without a class; the material of class k is 1 + k
GRASS, GAP, KERB = 0, len(CLASSES) + 1, len(CLASSES) + 2
# order in which the classes are painted: a later class covers an earlier one
PAINT_ORDER = (DRIVABLE, WALKWAY, CAR_PARK, CROSSING, STOP_LINE, DIVIDER)

CROSSING_GAP_M = 1.0  # from the edge of the other road to the crossing
STOP_GAP_M = 0.8  # from the crossing to the stop line
STOP_M = 0.6  # width of a stop line
KERB_M = 0.2  # width of the kerb of a walkway
STRIPE_M, STRIPE_GAP_M = 0.6, 0.5  # width of the stripes of a crossing, and of the gaps
ENTRANCE_M = 2.5  # half the width of the entrance of a car park

Points = Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Road:
    """A straight road with a walkway on both sides.

    Attributes:
        x_m: x of a point on its centre line, in the frame of the vehicle.
        y_m: y of this point.
        heading: angle from the x axis to its direction in radians, counter-clockwise.
        half_width_m: distance from the centre line to the kerb.
        walkway_m: width of each walkway.
        dividers_m: offsets of its dividers from the centre line, positive to the left.
        has_parking: True if cars are parked along its kerbs.
        begin_m: position along its direction at which it begins; -inf: it runs in both directions.
    """

    x_m: float
    y_m: float
    heading: float
    half_width_m: float
    walkway_m: float
    dividers_m: tuple[float, ...]
    has_parking: bool
    begin_m: float = -math.inf

    def local(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates of points in metres: along the road, and to the left of its centre."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        x, y = points[:, 0] - self.x_m, points[:, 1] - self.y_m
        return c * x + s * y, c * y - s * x

    def point(self, along_m: float, across_m: float) -> tuple[float, float]:
        """Return x and y in the frame of the vehicle for coordinates along and across the road."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        return self.x_m + c * along_m - s * across_m, self.y_m + s * along_m + c * across_m


@dataclass(frozen=True)
class Arm:
    """The road markings on one arm of a junction.

    Attributes:
        road: index of the road.
        other: index of the road that it meets at the junction.
        side: 1 for the arm to the left of the other road, -1 for the one to the right.
        crossing_m: length of the crossing along the road in metres; 0 for no crossing.
        stops: True if the arm has a stop line.
    """

    road: int
    other: int
    side: int
    crossing_m: float
    stops: bool


@dataclass(frozen=True)
class CarPark:
    """A rectangular car park behind the walkway of a road, with an entrance across the walkway.

    Attributes:
        road: index of the road.
        side: 1 to the left of the road, -1 to the right.
        begin_m: position along the road at which it begins.
        end_m: position along the road at which it ends.
        depth_m: its length across the road in metres.
    """

    road: int
    side: int
    begin_m: float
    end_m: float
    depth_m: float


@dataclass(frozen=True)
class Ground:
    """The ground of a scene, and its map.

    Attributes:
        roads: the road of the vehicle, then the roads that meet it.
        arms: arms of the junctions.
        car_parks: car parks along the roads.
        line_m: width of the dividers in metres.
        cells: cells of the map along each axis.
        cell_m: length of a cell in metres.
    """

    roads: tuple[Road, ...]
    arms: tuple[Arm, ...]
    car_parks: tuple[CarPark, ...]
    line_m: float
    cells: int
    cell_m: float

    def classes_at(self, points: Points) -> Bool[np.ndarray, "n k"]:
        """Return which classes apply at positions in metres, in the frame of the vehicle."""
        return self._classify(points)[0]

    def materials_at(self, points: Points) -> UInt8[np.ndarray, " n"]:
        """Return the visible materials at positions in metres, in the frame of the vehicle.

        A material is 1 + the index of a class, ``GRASS``, ``GAP`` between the stripes of a
        crossing, or ``KERB`` at the edge of a walkway.
        """
        classes, details = self._classify(points)
        materials = np.full(len(points), GRASS, dtype=np.uint8)
        for k in PAINT_ORDER:
            materials[classes[:, k]] = 1 + k
        return np.where(details > 0, details, materials)

    def draw(self, vehicle_change: Float[Tensor, "4 4"]) -> Float[Tensor, "k x y"]:
        """Return the map of every class: 1 where the class applies at the centre of a cell, else 0.

        Args:
            vehicle_change: transform from the frame of the vehicle to that of the map.
        """
        centres = (np.arange(self.cells) + 0.5 - self.cells / 2) * self.cell_m
        x, y = np.meshgrid(centres, centres, indexing="ij")
        cells = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=-1).reshape(-1, 4)
        back = np.linalg.inv(vehicle_change.double().cpu().numpy())
        there = self.classes_at(cells @ back[:2].T)
        return torch.from_numpy(there.T.reshape(-1, *x.shape).astype(np.float32))

    def _classify(self, points: Points) -> tuple[Bool[np.ndarray, "n k"], UInt8[np.ndarray, " n"]]:
        """Return the classes of points, and the material on top of them: ``GAP``, ``KERB`` or 0."""
        classes = np.zeros((len(CLASSES), len(points)), dtype=bool)
        details = np.zeros(len(points), dtype=np.uint8)
        local = [road.local(points) for road in self.roads]
        on, is_walkway = [], classes[WALKWAY]
        for road, (along, across) in zip(self.roads, local, strict=True):
            is_inside, beyond = along >= road.begin_m, np.abs(across) - road.half_width_m
            on.append(is_inside & (beyond <= 0))
            is_walkway |= is_inside & (beyond <= road.walkway_m)
            details[is_inside & (beyond <= KERB_M)] = KERB
            classes[DRIVABLE] |= on[-1]
        is_outside = ~(is_walkway | classes[DRIVABLE])
        for park in self.car_parks:
            along, across = local[park.road]
            beyond = across * park.side - self.roads[park.road].half_width_m
            in_park = beyond - self.roads[park.road].walkway_m
            is_inside = (along >= park.begin_m) & (along <= park.end_m) & is_outside
            classes[CAR_PARK] |= is_inside & (in_park >= 0) & (in_park <= park.depth_m)
            is_entrance = np.abs(along - (park.begin_m + park.end_m) / 2) <= ENTRANCE_M
            classes[DRIVABLE] |= is_entrance & (beyond >= 0) & (in_park < 0)
        is_walkway &= ~classes[DRIVABLE]
        details[classes[DRIVABLE]] = 0
        details[self._add_paint(classes, on, local)] = GAP
        return classes.T, details

    def _add_paint(
        self,
        classes: Bool[np.ndarray, "k n"],
        on: list[np.ndarray],
        local: list[tuple[np.ndarray, np.ndarray]],
    ) -> Bool[np.ndarray, " n"]:
        """Add crossings, stop lines and dividers to ``classes``; return the gaps of the crossings.

        Args:
            classes: masks of the classes of all points, changed in place.
            on: for each road, mask of the points between its kerbs.
            local: for each road, coordinates of the points along and across it.
        """
        is_gap = np.zeros_like(on[0])
        is_divided = [one.copy() for one in on]
        for arm in self.arms:
            road, other = self.roads[arm.road], self.roads[arm.other]
            across = local[arm.road][1]
            from_kerb = arm.side * local[arm.other][1] - other.half_width_m
            end = CROSSING_GAP_M + arm.crossing_m
            if arm.crossing_m:
                crossing = on[arm.road] & (from_kerb >= CROSSING_GAP_M) & (from_kerb <= end)
                classes[CROSSING] |= crossing
                is_gap |= crossing & (across % (STRIPE_M + STRIPE_GAP_M) > STRIPE_M)
            if arm.stops:
                end += STOP_GAP_M
                # traffic keeps to the right of the centre line
                incoming = arm.side * math.copysign(1, math.sin(road.heading - other.heading))
                is_inside = (from_kerb >= end) & (from_kerb <= end + STOP_M)
                classes[STOP_LINE] |= on[arm.road] & is_inside & (across * incoming >= 0)
                end += STOP_M
            # a road has no dividers inside a junction
            is_divided[arm.road] &= (from_kerb > end) | (from_kerb <= -2 * other.half_width_m)
        for road, (_, across), there in zip(self.roads, local, is_divided, strict=True):
            for divider_m in road.dividers_m:
                classes[DIVIDER] |= there & (np.abs(across - divider_m) <= self.line_m / 2)
        return is_gap
