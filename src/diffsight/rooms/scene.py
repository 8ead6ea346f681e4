"""Sampling a scene: each part of it from a stream of random numbers of its own."""

import math

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms import building
from diffsight.rooms.draw import stream
from diffsight.rooms.layout import Layout
from diffsight.rooms.lights import Window, add_lights
from diffsight.rooms.models import Style
from diffsight.rooms.room_types import ROOM_TYPES, ROOMS, Kind, add_extras
from diffsight.rooms.world import Scene, Vector, View, compose, point, rotation_y


def sample_scene(split: str, seed: int, index: int) -> Scene:
    """Return the scene of this name: a function of the arguments and the renderer."""
    room_type = stream(split, seed, index, "type").choice(ROOM_TYPES)
    kind = ROOMS[room_type]
    draw = stream(split, seed, index, "room")
    half_size = _room_size(draw, room_type)
    style = Style.draw(draw, kind.palette)
    view = _camera(stream(split, seed, index, "camera"), half_size)
    layout = Layout(stream(split, seed, index, "layout"), half_size, view)
    floor = building.floor_finish(draw, draw.choice(kind.floors))
    wall = building.wall_finishes(draw, kind.wall_colours, draw.chance(kind.tiled))
    for model in building.shell(half_size, floor, wall):
        layout.add(model, (0.0, 0.0, 0.0), 0.0)
    windows = _openings(layout, stream(split, seed, index, "openings"), style, kind)
    draw = stream(split, seed, index, "furniture")
    kind.furnish(layout, draw, style)
    add_extras(layout, draw, style, room_type)
    lights, ambient, sky = add_lights(stream(split, seed, index, "light"), layout, windows)
    noise = stream(split, seed, index, "sensor").uniform(0.004, 0.014)
    return Scene(
        room_type,
        half_size,
        tuple(layout.primitives),
        tuple(layout.things),
        lights,
        ambient,
        sky,
        view,
        noise,
        split,
        seed,
        index,
    )


def _room_size(draw: Draw, room_type: str) -> Vector:
    """Return half width, half height and half depth in metres."""
    low, high = {"bathroom": (2.5, 4.2), "bedroom": (3.0, 5.2), "kitchen": (2.8, 5.2)}.get(
        room_type, (3.4, 7.0)
    )
    return draw.uniform(low, high) / 2, draw.uniform(2.3, 3.2) / 2, draw.uniform(low, high) / 2


def _camera(draw: Draw, half_size: Vector) -> View:
    """Return a camera near the -z wall that looks into the room."""
    x, _, z = half_size
    position = point(
        draw.uniform(-1, 1) * (x - 0.45),
        draw.uniform(1.0, 1.9),
        -z + draw.uniform(0.3, 0.4 + 0.15 * z),
    )
    target = point(
        draw.uniform(-0.55, 0.55) * x, draw.uniform(0.3, 1.15), draw.uniform(0.1, 0.8) * z
    )
    way = target - position
    yaw = math.atan2(way[0], way[2])
    drop = math.atan2(-way[1], math.hypot(way[0], way[2]))
    pitch = min(max(drop + draw.uniform(-0.06, 0.06), -0.08), 0.42)
    roll = draw.uniform(-0.035, 0.035)
    sp, cp = round(math.sin(pitch), 12), round(math.cos(pitch), 12)
    sr, cr = round(math.sin(roll), 12), round(math.cos(roll), 12)
    # columns right, down, forward of a camera that looks along +z with its top towards +y
    level = np.array([[1.0, 0.0, 0.0], [0.0, -cp, -sp], [0.0, -sp, cp]])
    rolled = compose(level, np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]]))
    return View(position, compose(rotation_y(yaw), rolled), math.radians(draw.uniform(50, 80)))


def _openings(layout: Layout, draw: Draw, style: Style, kind: Kind) -> list[Window]:
    """Add doors, windows and pictures; return the windows."""
    windows = []
    height = 2 * layout.half_size[1]
    for number in draw.shuffled((0, 1, 2))[: draw.choice((0, 1, 1, 1, 2, 2, 3))]:
        half_x, low = draw.uniform(0.35, 0.85), draw.uniform(0.7, 1.1)
        high = min(low + draw.uniform(0.9, 1.4), height - 0.25)
        curtain = draw.choice(style.palette) if draw.chance(kind.curtains) else None
        models = building.window(draw, half_x, low, high, curtain)
        models[0].half_x += 0.25 if curtain else 0.0
        hung = layout.hang(models[0], number)
        if hung is not None:
            windows.append((number, hung[0], half_x, low, high))
            thing = layout.things[hung[1]]
            for extra in models[1:]:
                layout.add(extra, thing.position, thing.yaw)
    if draw.chance(0.5):
        layout.hang(building.door(draw, style), draw.integer(0, 2))
    for _ in range(draw.integer(0, 3)):
        layout.hang(building.picture(draw, style), draw.integer(0, 2))
    return windows
