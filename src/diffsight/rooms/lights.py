"""The lights of a room: lamps, the sun through a window, ambient light and the sky."""

import math

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms import building
from diffsight.rooms.building import make_walls
from diffsight.rooms.layout import Layout
from diffsight.rooms.world import Light, Vector, point

Window = tuple[
    int, float, float, float, float
]  # index of its wall; offset along it, half width, lower edge, upper edge in metres


def add_lights(
    draw: Draw, layout: Layout, windows: list[Window]
) -> tuple[tuple[Light, ...], Vector, tuple[Vector, Vector, Vector]]:
    """Add a ceiling lamp to the room; return the lights, the ambient light and the sky.

    Returns:
        One or two lights; the linear RGB of the ambient light; and the linear RGB of the sky at the
        horizon and at the zenith, and of the ground outside.
    """
    x, half_y, z = layout.half_size
    height = 2 * half_y
    position = (draw.uniform(-0.4, 0.4) * x, height, draw.uniform(-0.3, 0.4) * z)
    layout.add(building.make_ceiling_lamp(draw, height), position, 0.0)
    warm = draw.uniform(0, 1)
    colour = (1.0, 0.93 - 0.1 * warm, 0.86 - 0.28 * warm)
    day = draw.uniform(0.25, 1.0) if draw.chance(0.85) else 0.02
    lamp = draw.uniform(0.65, 1.05) * (1.0 if not windows else 1.1 - 0.4 * day)
    lights = [
        _make_lamp(
            draw, point(position[0], height - 0.35, position[2]), colour, lamp, 0.5 * (x + z)
        )
    ]
    sunny = draw.chance(0.7)
    if windows and day > 0.4 and sunny:
        lights.append(_make_sun(draw, layout, windows[0], day))
    elif draw.chance(0.4):
        spot = point(
            draw.uniform(-0.8, 0.8) * x,
            draw.uniform(1.2, height - 0.3),
            draw.uniform(-0.8, 0.9) * z,
        )
        lights.append(
            _make_lamp(draw, spot, (1.0, 0.9, 0.75), draw.uniform(0.2, 0.45), 0.4 * (x + z))
        )
    fill = draw.uniform(0.20, 0.34) + (0.12 * day if windows else 0.04)
    cool = 0.04 * day if windows else 0.0
    ambient = (fill * (1 - cool), fill, fill * (1 + cool * 2))
    haze = draw.uniform(0, 1)
    horizon = ((0.80 + 0.15 * haze) * day, (0.85 + 0.05 * haze) * day, 0.95 * day)
    zenith = (0.25 * day, 0.45 * day, (0.85 - 0.2 * haze) * day)
    ground = (0.16 * day, (0.22 + 0.1 * haze) * day, 0.10 * day)
    return tuple(lights), ambient, (horizon, zenith, ground)


# offsets of the four sample points of a light: the corners of a tetrahedron
_CORNERS = np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]], dtype=np.float64)


def _make_lamp(
    draw: Draw, centre: np.ndarray, colour: Vector, power: float, reach_m: float
) -> Light:
    points = centre[:, None] + _CORNERS * draw.uniform(0.04, 0.09)
    r, g, b = (c * power for c in colour)
    return Light(points, (r, g, b), reach_m)


def _make_sun(draw: Draw, layout: Layout, window: Window, day: float) -> Light:
    """Return a distant light that enters through one window only."""
    number, offset, half_x, low, high = window
    wall = make_walls(layout.half_size)[number]
    s, c = math.sin(wall.yaw), math.cos(wall.yaw)
    middle = point(
        wall.foot[0] + wall.along[0] * offset,
        (low + high) / 2,
        wall.foot[2] + wall.along[2] * offset,
    )
    side = draw.uniform(-0.7, 0.7)
    way = point(-s + wall.along[0] * side, draw.uniform(0.5, 1.1), -c + wall.along[2] * side)
    points = (middle + way * 12.0)[:, None] + _CORNERS * 0.12
    axis = 2 if number in (0, 3) else 0
    reach = point(abs(wall.along[0]) * half_x, (high - low) / 2, abs(wall.along[2]) * half_x)
    power = 1.6 * day
    gate = (axis, float(middle[axis]), middle - reach, middle + reach)
    return Light(points, (power, power * 0.93, power * 0.78), math.inf, gate)
