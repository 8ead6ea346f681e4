"""Sample random street scenes: ground, solids, colours and light."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.streets.ground import (
    CAR_PARK,
    CROSSING,
    DIVIDER,
    DRIVABLE,
    STOP_LINE,
    WALKWAY,
    Arm,
    CarPark,
    Ground,
    Road,
)
from diffsight.streets.solids import Colour, Solid

WORLD_VERSION = "streets-1"
SPLITS = ("train", "val", "test")
FAR_M = 55.0  # greatest distance of solids along a road
LINE_M = 0.3  # least width of a divider; it is as wide as a cell, so that its map has no holes
MARGIN_M = 0.3  # least distance between things
PARKING_M = 2.2  # width of the strip along the kerb where cars are parked
PAINTED_CLASSES = [CROSSING, STOP_LINE, DIVIDER]
TEXTURE_SIZE = 64  # rows and columns of the texture of the ground
VEHICLE = Solid(0.0, 0.0, 0.0, (2.4, 1.0), (0.0, 1.5), (0.0, 0.0, 0.0))

Thing = tuple[Solid, ...]  # boxes of one object; the first one stands on the ground


@dataclass(frozen=True)
class Look:
    """Colours and light of a scene.

    Attributes:
        materials: RGB in [0, 1] of every material of the ground (``Ground.materials_at``), ``n 3``.
        sky: RGB at the horizon and at the zenith.
        light: RGB of the light, by which all colours are multiplied.
        sun: unit vector towards the sun.
        texture: repeated brightness pattern of the ground, ``n n`` in [-1, 1].
    """

    materials: np.ndarray
    sky: tuple[Colour, Colour]
    light: Colour
    sun: tuple[float, float, float]
    texture: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A complete scene around the vehicle.

    Attributes:
        id: name of the scene.
        ground: the ground and its map.
        solids: boxes that make up cars, houses, trees, poles and people.
        look: colours and light.
    """

    id: str
    ground: Ground
    solids: tuple[Solid, ...]
    look: Look


def stream(key: str) -> Draw:
    """Return the stream of random numbers with this name."""
    return Draw(f"{WORLD_VERSION}/{key}")


def _draw_colour(draw: Draw, low: float, high: float) -> Colour:
    """Return a random RGB colour with values in [low, high)."""
    return draw.uniform(low, high), draw.uniform(low, high), draw.uniform(low, high)


def sample_scene(split: str, seed: int, index: int, *, cells: int, cell_m: float) -> Scene:
    """Return a scene, which depends only on the arguments and on ``WORLD_VERSION``.

    Args:
        split: one of ``SPLITS``.
        seed: seed of the data set.
        index: index of the scene.
        cells: cells of the map along each axis.
        cell_m: length of a cell in metres; it is also the least width of dividers.
    """
    name = f"streets-{split}-{seed}-{index:06d}"
    draw = stream(f"{name}/ground")
    roads = _draw_roads(draw)
    line_m = max(LINE_M, cell_m)
    ground = Ground(
        roads, _draw_arms(draw, roads), _draw_car_parks(draw, roads[0]), line_m, cells, cell_m
    )
    solids = _draw_solids(stream(f"{name}/solids"), ground)
    return Scene(name, ground, solids, _draw_look(stream(f"{name}/look")))


def _draw_roads(draw: Draw) -> tuple[Road, ...]:
    """Return the road of the vehicle, and one or two roads that cross it or begin at it."""
    heading = draw.uniform(-0.6, 0.6) if draw.chance(0.25) else draw.uniform(-0.07, 0.07)
    lanes, lane_m = 1 + draw.chance(0.4), draw.uniform(3, 3.7)
    lane = 0 if lanes == 1 or draw.chance(0.5) else 1
    # the vehicle drives to the right of the centre line, about in the middle of its lane
    across = (lane + 0.5) * lane_m + draw.uniform(-0.4, 0.4)
    x, y = -across * math.sin(heading), across * math.cos(heading)
    roads = [_draw_road(draw, (x, y), heading, lanes, lane_m)]
    along = draw.uniform(-22, 24)
    for _ in range(1 + draw.chance(0.5)):
        turn = math.pi / 2 + draw.uniform(-0.4, 0.4) + math.pi * draw.chance(0.5)
        lanes, lane_m = 1 + draw.chance(0.3), draw.uniform(3, 3.7)
        begin = 0.0 if draw.chance(0.35) else -math.inf
        roads.append(
            _draw_road(draw, roads[0].point(along, 0.0), heading + turn, lanes, lane_m, begin)
        )
        along += math.copysign(draw.uniform(40, 60), -along)
    return tuple(roads)


def _draw_road(
    draw: Draw,
    position: tuple[float, float],
    heading: float,
    lanes: int,
    lane_m: float,
    begin_m: float = -math.inf,
) -> Road:
    has_parking = draw.chance(0.6)
    half = lanes * lane_m + (PARKING_M if has_parking else 0.4)
    dividers = tuple(lane_m * i for i in range(1 - lanes, lanes))
    return Road(*position, heading, half, draw.uniform(1.6, 4), dividers, has_parking, begin_m)


def _draw_arms(draw: Draw, roads: tuple[Road, ...]) -> tuple[Arm, ...]:
    pairs = [pair for i in range(1, len(roads)) for pair in ((0, i), (i, 0))]
    return tuple(
        Arm(
            *pair,
            side,
            crossing_m=draw.uniform(2.5, 4.5) * draw.chance(0.75),
            stops=draw.chance(0.7),
        )
        for pair in pairs
        for side in (-1, 1)
    )


def _draw_car_parks(draw: Draw, road: Road) -> tuple[CarPark, ...]:
    parks = []
    for side in (-1, 1):
        if draw.chance(0.45):
            begin = draw.uniform(-25, 12)
            end = begin + draw.uniform(12, 28)
            parks.append(CarPark(0, side, begin, end, depth_m=draw.uniform(8, 18)))
    return tuple(parks)


def _draw_solids(draw: Draw, ground: Ground) -> tuple[Solid, ...]:
    """Return random boxes that stand on suitable ground and do not overlap."""
    ground = replace(ground, line_m=LINE_M)  # the boxes must not depend on the size of the cells
    solids = [VEHICLE]
    for things, may_stand in (
        (_draw_cars_in_parks(draw, ground), _is_in_park),
        (_draw_cars_on_roads(draw, ground), _is_on_plain_road),
        (_draw_houses(draw, ground), _is_outside),
        (_draw_trees(draw, ground), _is_outside),
        (_draw_poles_and_people(draw, ground), _is_on_walkway),
    ):
        solids += _keep_free(list(things), ground, may_stand, solids)
    return tuple(solids[1:])


def _keep_free(
    things: list[Thing],
    ground: Ground,
    may_stand: Callable[[np.ndarray], np.ndarray],
    solids: list[Solid],
) -> list[Solid]:
    """Return the boxes of the things that stand on suitable ground and overlap no other box.

    Args:
        things: candidates; of two that overlap, the first one is kept.
        ground: the ground.
        may_stand: function that returns a mask of suitable points from their classes.
        solids: boxes that are already part of the scene.
    """
    if not things:
        return []
    footprints = np.stack([thing[0].footprint(7) for thing in things])
    classes = ground.classes_at(footprints.reshape(-1, 2)).reshape(*footprints.shape[:2], -1)
    kept: list[Solid] = []
    for i in np.flatnonzero(may_stand(classes).all(axis=1)).tolist():
        base = things[i][0]
        near = (
            one
            for one in (*solids, *kept)
            if math.hypot(one.x_m - base.x_m, one.y_m - base.y_m)
            < one.reach_m + base.reach_m + MARGIN_M
        )
        if not any(one.covers(footprints[i], MARGIN_M).any() for one in near):
            kept += things[i]
    return kept


def _is_in_park(classes: np.ndarray) -> np.ndarray:
    return classes[..., CAR_PARK]


def _is_on_plain_road(classes: np.ndarray) -> np.ndarray:
    return classes[..., DRIVABLE] > classes[..., PAINTED_CLASSES].any(axis=-1)


def _is_outside(classes: np.ndarray) -> np.ndarray:
    return np.logical_not(classes.any(axis=-1))


def _is_on_walkway(classes: np.ndarray) -> np.ndarray:
    return classes[..., WALKWAY]


def _draw_car(draw: Draw, position: tuple[float, float], heading: float) -> Thing:
    grey = draw.uniform(0.08, 0.9)
    colour = _draw_colour(draw, 0.1, 0.85) if draw.chance(0.5) else (grey, grey, grey)
    half, width = draw.uniform(2.0, 2.4), draw.uniform(0.82, 0.92)
    waist, top = draw.uniform(0.8, 1.0), draw.uniform(1.4, 1.8)
    body = Solid(*position, heading, (half, width), (0.0, waist), colour)
    c, s = math.cos(heading), math.sin(heading)
    x, y = position[0] - 0.3 * c, position[1] - 0.3 * s
    cabin = Solid(x, y, heading, (0.6 * half, 0.9 * width), (waist, top), (0.16, 0.19, 0.22))
    roof = Solid(x, y, heading, (0.5 * half, 0.85 * width), (top, top + 0.06), colour)
    return body, cabin, roof


def _iterate_sides(ground: Ground) -> Iterator[tuple[Road, int]]:
    return ((road, side) for road in ground.roads for side in (-1, 1))


def _draw_cars_in_parks(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for park in ground.car_parks:
        road = ground.roads[park.road]
        kerb = road.half_width_m + road.walkway_m
        for row in (2.8, park.depth_m - 2.8)[: 1 + (park.depth_m > 13)]:
            for along in np.arange(park.begin_m + 1.4, park.end_m - 1.3, 2.8).tolist():
                if draw.chance(0.45):
                    position = road.point(along, park.side * (kerb + row))
                    yield _draw_car(
                        draw, position, road.heading + math.copysign(math.pi / 2, row - 4)
                    )


def _draw_cars_on_roads(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _iterate_sides(ground):
        heading = road.heading + math.pi * (side > 0)
        for line in road.dividers_m[len(road.dividers_m) // 2 :]:
            for _ in range(2):
                across = line + 1.6 + draw.uniform(-0.2, 0.2)
                yield _draw_car(
                    draw, road.point(draw.uniform(-FAR_M, FAR_M), side * across), heading
                )
        for slot in np.arange(-FAR_M, FAR_M, 5.6).tolist():
            if road.has_parking and draw.chance(0.35):
                across = road.half_width_m - draw.uniform(1.05, 1.2)
                yield _draw_car(draw, road.point(slot, side * across), heading)


def _draw_houses(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _iterate_sides(ground):
        along = -FAR_M
        while along < FAR_M:
            half, depth = draw.uniform(4, 10), draw.uniform(4, 7)
            back = draw.uniform(1, 6) + depth
            position = road.point(along + half, side * (road.half_width_m + road.walkway_m + back))
            top = draw.uniform(3.5, 16)
            wall = _draw_colour(draw, 0.35, 0.8)
            if draw.chance(0.75):
                yield (Solid(*position, road.heading, (half, depth), (0.0, top), wall),)
            along += 2 * half + draw.uniform(1, 8)


def _draw_trees(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _iterate_sides(ground):
        for _ in range(6):
            edge = road.half_width_m + road.walkway_m
            across = side * (edge + draw.uniform(0.5, 3))
            x, y = road.point(draw.uniform(-0.6 * FAR_M, 0.6 * FAR_M), across)
            low, wide = draw.uniform(1.8, 2.6), draw.uniform(0.8, 1.5)
            green = draw.uniform(0.25, 0.45)
            trunk = Solid(x, y, road.heading, (0.15, 0.15), (0.0, low), (0.3, 0.22, 0.15))
            z_m = (low, low + draw.uniform(1.5, 3))
            crown = Solid(x, y, road.heading, (wide, wide), z_m, (0.6 * green, green, 0.4 * green))
            yield trunk, crown


def _draw_poles_and_people(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _iterate_sides(ground):
        for is_pole in (True,) * 5 + (False,) * 5:
            across = draw.uniform(0.3, 0.5) if is_pole else draw.uniform(0.4, road.walkway_m)
            along = draw.uniform(-0.6 * FAR_M, 0.6 * FAR_M)
            position = road.point(along, side * (road.half_width_m + across))
            if is_pole:
                z_m = (0.0, draw.uniform(3, 6))
                yield (Solid(*position, road.heading, (0.08, 0.08), z_m, (0.3, 0.3, 0.32)),)
            else:
                size, z_m = (0.18, 0.25), (0.0, draw.uniform(1.5, 1.9))
                yield (Solid(*position, road.heading, size, z_m, _draw_colour(draw, 0.1, 0.8)),)


def _draw_look(draw: Draw) -> Look:
    asphalt, paint = draw.uniform(0.26, 0.4), draw.uniform(0.82, 0.95)
    paving, green = asphalt + draw.uniform(0.18, 0.3), draw.uniform(0.3, 0.46)
    grey = (asphalt, asphalt, 1.03 * asphalt)
    white = (paint, paint, paint)
    park = (1.1 * asphalt + 0.06, asphalt, 0.8 * asphalt)
    if draw.chance(0.5):
        park = (0.8 * asphalt, asphalt, 1.15 * asphalt + 0.06)
    grass = (0.75 * green, green, 0.45 * green)
    line = (paint, 0.8 * paint, 0.3 * paint) if draw.chance(0.5) else white
    slabs, kerb = (paving, 0.97 * paving, 0.9 * paving), (1.25 * paving,) * 3
    materials = [grass, grey, white, slabs, white, park, line, grey, kerb]
    strength, warm = draw.uniform(0.7, 1.2), draw.uniform(-0.08, 0.08)
    light = (strength * (1 + warm), strength, strength * (1 - warm))
    haze = draw.uniform(0.7, 0.95)
    sky = ((haze, haze, 0.97), (0.4 * haze, 0.6 * haze, 0.92))
    around, high = draw.uniform(-math.pi, math.pi), draw.uniform(0.4, 1.2)
    flat = math.cos(high)
    sun = (flat * math.cos(around), flat * math.sin(around), math.sin(high))
    texture = 2 * draw.generator.random((TEXTURE_SIZE, TEXTURE_SIZE), dtype=np.float32) - 1
    return Look(np.array(materials, dtype=np.float32), sky, light, sun, texture)
