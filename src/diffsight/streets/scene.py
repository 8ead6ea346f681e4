"""Random scenes: roads, what is painted on them, what stands beside them, colours and light."""

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
FAR_M = 55.0  # nothing stands farther along a road
LINE_M = 0.3  # least width of a divider; one as wide as a cell of the map has no holes there
MARGIN_M = 0.3  # between things
PARKING_M = 2.2  # width of the strip along the kerb where cars are parked
PAINTED = [CROSSING, STOP_LINE, DIVIDER]
TEXTURE = 64  # rows and columns
VEHICLE = Solid(0.0, 0.0, 0.0, (2.4, 1.0), (0.0, 1.5), (0.0, 0.0, 0.0))

Thing = tuple[Solid, ...]  # the first one stands on the ground


@dataclass(frozen=True)
class Look:
    """Colours and light of a scene.

    Attributes:
        materials: RGB in [0, 1] of every material of the ground.
        sky: RGB at the horizon and at the zenith.
        light: RGB by which every other colour is multiplied.
        sun: direction towards it, of length 1.
        texture: of the ground, in [-1, 1]; repeated.
    """

    materials: np.ndarray
    sky: tuple[Colour, Colour]
    light: Colour
    sun: tuple[float, float, float]
    texture: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything there is around the vehicle.

    Attributes:
        id: name of the scene, the same everywhere.
        ground: with its map.
        solids: boxes that stand on it.
        look: colours and light.
    """

    id: str
    ground: Ground
    solids: tuple[Solid, ...]
    look: Look


def stream(key: str) -> Draw:
    """Return one stream of random decisions."""
    return Draw(f"{WORLD_VERSION}/{key}")


def _colour(draw: Draw, low: float, high: float) -> Colour:
    """Return RGB, each in [low, high)."""
    return draw.uniform(low, high), draw.uniform(low, high), draw.uniform(low, high)


def sample_scene(split: str, seed: int, index: int, *, cells: int, cell_m: float) -> Scene:
    """Return a scene; the cells change only its map and the width of dividers."""
    name = f"streets-{split}-{seed}-{index:06d}"
    draw = stream(f"{name}/ground")
    roads = _roads(draw)
    line_m = max(LINE_M, cell_m)
    ground = Ground(roads, _arms(draw, roads), _car_parks(draw, roads[0]), line_m, cells, cell_m)
    solids = _solids(stream(f"{name}/solids"), ground)
    return Scene(name, ground, solids, _look(stream(f"{name}/look")))


def _roads(draw: Draw) -> tuple[Road, ...]:
    """Return the road of the vehicle, and one or two that cross it or begin at it."""
    heading = draw.uniform(-0.6, 0.6) if draw.chance(0.25) else draw.uniform(-0.07, 0.07)
    lanes, lane_m = 1 + draw.chance(0.4), draw.uniform(3, 3.7)
    lane = 0 if lanes == 1 or draw.chance(0.5) else 1
    # the vehicle drives to the right of the centre line, about in the middle of its lane
    across = (lane + 0.5) * lane_m + draw.uniform(-0.4, 0.4)
    x, y = -across * math.sin(heading), across * math.cos(heading)
    roads = [_road(draw, (x, y), heading, lanes, lane_m)]
    along = draw.uniform(-22, 24)
    for _ in range(1 + draw.chance(0.5)):
        turn = math.pi / 2 + draw.uniform(-0.4, 0.4) + math.pi * draw.chance(0.5)
        lanes, lane_m = 1 + draw.chance(0.3), draw.uniform(3, 3.7)
        begin = 0.0 if draw.chance(0.35) else -math.inf
        roads.append(_road(draw, roads[0].point(along, 0.0), heading + turn, lanes, lane_m, begin))
        along += math.copysign(draw.uniform(40, 60), -along)
    return tuple(roads)


def _road(
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


def _arms(draw: Draw, roads: tuple[Road, ...]) -> tuple[Arm, ...]:
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


def _car_parks(draw: Draw, road: Road) -> tuple[CarPark, ...]:
    parks = []
    for side in (-1, 1):
        if draw.chance(0.45):
            begin = draw.uniform(-25, 12)
            end = begin + draw.uniform(12, 28)
            parks.append(CarPark(0, side, begin, end, depth_m=draw.uniform(8, 18)))
    return tuple(parks)


def _solids(draw: Draw, ground: Ground) -> tuple[Solid, ...]:
    """Return boxes that stand where they may, and not in one another."""
    ground = replace(ground, line_m=LINE_M)  # the same boxes for cells of any size
    found = [VEHICLE]
    for things, may_stand in (
        (_cars_in_parks(draw, ground), _is_in_park),
        (_cars_on_roads(draw, ground), _is_on_plain_road),
        (_houses(draw, ground), _is_outside),
        (_trees(draw, ground), _is_outside),
        (_poles_and_people(draw, ground), _is_on_walkway),
    ):
        found += _placed(list(things), ground, may_stand, found)
    return tuple(found[1:])


def _placed(
    things: list[Thing],
    ground: Ground,
    may_stand: Callable[[np.ndarray], np.ndarray],
    solids: list[Solid],
) -> list[Solid]:
    """Return the boxes of those things that overlap nothing else."""
    if not things:
        return []
    footprints = np.stack([thing[0].footprint(7) for thing in things])
    classes = ground.classes_at(footprints.reshape(-1, 2)).reshape(*footprints.shape[:2], -1)
    placed: list[Solid] = []
    for i in np.flatnonzero(may_stand(classes).all(axis=1)).tolist():
        base = things[i][0]
        near = (
            one
            for one in (*solids, *placed)
            if math.hypot(one.x_m - base.x_m, one.y_m - base.y_m)
            < one.reach_m + base.reach_m + MARGIN_M
        )
        if not any(one.covers(footprints[i], MARGIN_M).any() for one in near):
            placed += things[i]
    return placed


def _is_in_park(classes: np.ndarray) -> np.ndarray:
    return classes[..., CAR_PARK]


def _is_on_plain_road(classes: np.ndarray) -> np.ndarray:
    return classes[..., DRIVABLE] > classes[..., PAINTED].any(axis=-1)


def _is_outside(classes: np.ndarray) -> np.ndarray:
    return np.logical_not(classes.any(axis=-1))


def _is_on_walkway(classes: np.ndarray) -> np.ndarray:
    return classes[..., WALKWAY]


def _car(draw: Draw, position: tuple[float, float], heading: float) -> Thing:
    grey = draw.uniform(0.08, 0.9)
    colour = _colour(draw, 0.1, 0.85) if draw.chance(0.5) else (grey, grey, grey)
    half, width = draw.uniform(2.0, 2.4), draw.uniform(0.82, 0.92)
    waist, top = draw.uniform(0.8, 1.0), draw.uniform(1.4, 1.8)
    body = Solid(*position, heading, (half, width), (0.0, waist), colour)
    c, s = math.cos(heading), math.sin(heading)
    x, y = position[0] - 0.3 * c, position[1] - 0.3 * s
    cabin = Solid(x, y, heading, (0.6 * half, 0.9 * width), (waist, top), (0.16, 0.19, 0.22))
    roof = Solid(x, y, heading, (0.5 * half, 0.85 * width), (top, top + 0.06), colour)
    return body, cabin, roof


def _sides(ground: Ground) -> Iterator[tuple[Road, int]]:
    return ((road, side) for road in ground.roads for side in (-1, 1))


def _cars_in_parks(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for park in ground.car_parks:
        road = ground.roads[park.road]
        kerb = road.half_width_m + road.walkway_m
        for row in (2.8, park.depth_m - 2.8)[: 1 + (park.depth_m > 13)]:
            for along in np.arange(park.begin_m + 1.4, park.end_m - 1.3, 2.8).tolist():
                if draw.chance(0.45):
                    position = road.point(along, park.side * (kerb + row))
                    yield _car(draw, position, road.heading + math.copysign(math.pi / 2, row - 4))


def _cars_on_roads(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _sides(ground):
        heading = road.heading + math.pi * (side > 0)
        for line in road.dividers_m[len(road.dividers_m) // 2 :]:
            for _ in range(2):
                across = line + 1.6 + draw.uniform(-0.2, 0.2)
                yield _car(draw, road.point(draw.uniform(-FAR_M, FAR_M), side * across), heading)
        for slot in np.arange(-FAR_M, FAR_M, 5.6).tolist():
            if road.has_parking and draw.chance(0.35):
                across = road.half_width_m - draw.uniform(1.05, 1.2)
                yield _car(draw, road.point(slot, side * across), heading)


def _houses(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _sides(ground):
        along = -FAR_M
        while along < FAR_M:
            half, depth = draw.uniform(4, 10), draw.uniform(4, 7)
            back = draw.uniform(1, 6) + depth
            position = road.point(along + half, side * (road.half_width_m + road.walkway_m + back))
            top = draw.uniform(3.5, 16)
            wall = _colour(draw, 0.35, 0.8)
            if draw.chance(0.75):
                yield (Solid(*position, road.heading, (half, depth), (0.0, top), wall),)
            along += 2 * half + draw.uniform(1, 8)


def _trees(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _sides(ground):
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


def _poles_and_people(draw: Draw, ground: Ground) -> Iterator[Thing]:
    for road, side in _sides(ground):
        for is_pole in (True,) * 5 + (False,) * 5:
            across = draw.uniform(0.3, 0.5) if is_pole else draw.uniform(0.4, road.walkway_m)
            along = draw.uniform(-0.6 * FAR_M, 0.6 * FAR_M)
            position = road.point(along, side * (road.half_width_m + across))
            if is_pole:
                z_m = (0.0, draw.uniform(3, 6))
                yield (Solid(*position, road.heading, (0.08, 0.08), z_m, (0.3, 0.3, 0.32)),)
            else:
                size, z_m = (0.18, 0.25), (0.0, draw.uniform(1.5, 1.9))
                yield (Solid(*position, road.heading, size, z_m, _colour(draw, 0.1, 0.8)),)


def _look(draw: Draw) -> Look:
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
    texture = 2 * draw.generator.random((TEXTURE, TEXTURE), dtype=np.float32) - 1
    return Look(np.array(materials, dtype=np.float32), sky, light, sun, texture)
