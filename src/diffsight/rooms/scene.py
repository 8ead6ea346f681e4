"""Sample a random scene. Every part of it has its own stream of random numbers."""

import math

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms import building
from diffsight.rooms.draw import stream
from diffsight.rooms.layout import Layout
from diffsight.rooms.lights import Window, add_lights
from diffsight.rooms.models import Style
from diffsight.rooms.room_types import ROOM_TYPES, ROOMS, RoomType, add_extras
from diffsight.rooms.world import Scene, Vector, View, compose, point, rotation_y


def sample_scene(split: str, seed: int, index: int) -> Scene:
    """Return a random scene, which depends only on the arguments and on ``RENDERER_VERSION``.

    Args:
        split: one of ``SPLITS``.
        seed: seed of the data set.
        index: index of the scene.
    """
    room_type = stream(split, seed, index, "type").choice(ROOM_TYPES)
    settings = ROOMS[room_type]
    draw = stream(split, seed, index, "room")
    half_size = _draw_room_size(draw, room_type)
    style = Style.draw(draw, settings.palette)
    view = _draw_camera(stream(split, seed, index, "camera"), half_size)
    layout = Layout(stream(split, seed, index, "layout"), half_size, view)
    floor = building.make_floor_finish(draw, draw.choice(settings.floors))
    wall = building.make_wall_finishes(
        draw, settings.wall_colours, draw.chance(settings.tiled_probability)
    )
    for model in building.make_shell(half_size, floor, wall):
        layout.add(model, (0.0, 0.0, 0.0), 0.0)
    windows = _add_openings(layout, stream(split, seed, index, "openings"), style, settings)
    draw = stream(split, seed, index, "furniture")
    settings.furnish(layout, draw, style)
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


def _draw_room_size(draw: Draw, room_type: str) -> Vector:
    """Return a random half width, half height and half depth in metres."""
    low, high = {"bathroom": (2.5, 4.2), "bedroom": (3.0, 5.2), "kitchen": (2.8, 5.2)}.get(
        room_type, (3.4, 7.0)
    )
    return draw.uniform(low, high) / 2, draw.uniform(2.3, 3.2) / 2, draw.uniform(low, high) / 2


def _draw_camera(draw: Draw, half_size: Vector) -> View:
    """Return a random camera near the wall at -z that looks into the room."""
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
    # columns: right, down and forward of a camera that looks along +z, with +y up in the image
    level = np.array([[1.0, 0.0, 0.0], [0.0, -cp, -sp], [0.0, -sp, cp]])
    rolled = compose(level, np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]]))
    return View(position, compose(rotation_y(yaw), rolled), math.radians(draw.uniform(50, 80)))


def _add_openings(layout: Layout, draw: Draw, style: Style, settings: RoomType) -> list[Window]:
    """Add windows, doors and pictures; return the windows."""
    windows = []
    height = 2 * layout.half_size[1]
    for number in draw.shuffled((0, 1, 2))[: draw.choice((0, 1, 1, 1, 2, 2, 3))]:
        half_x, low = draw.uniform(0.35, 0.85), draw.uniform(0.7, 1.1)
        high = min(low + draw.uniform(0.9, 1.4), height - 0.25)
        curtain = draw.choice(style.palette) if draw.chance(settings.curtain_probability) else None
        models = building.make_window(draw, half_x, low, high, curtain)
        models[0].half_x += 0.25 if curtain else 0.0
        hung = layout.hang(models[0], number)
        if hung is not None:
            windows.append((number, hung[0], half_x, low, high))
            thing = layout.things[hung[1]]
            for extra in models[1:]:
                layout.add(extra, thing.position, thing.yaw)
    if draw.chance(0.5):
        layout.hang(building.make_door(draw, style), draw.integer(0, 2))
    for _ in range(draw.integer(0, 3)):
        layout.hang(building.make_picture(draw, style), draw.integer(0, 2))
    return windows
