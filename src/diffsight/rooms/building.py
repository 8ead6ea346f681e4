"""The parts of a building: floor, walls, ceiling, windows with curtains, doors, pictures, rugs."""

import math
from dataclasses import dataclass, replace

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms.materials import COLOURS, LOOKS, make_material, make_plain, make_wood
from diffsight.rooms.models import Model, Style
from diffsight.rooms.world import Material, Pattern, Vector, align_y, cross, point

WHITE = make_plain((0.92, 0.92, 0.90))
PANE = make_plain((0.5, 0.6, 0.7))

Finish = tuple[Material, str, str]  # material, name of its colour, word for its look or ""


@dataclass(frozen=True)
class Wall:
    """The position and the orientation of one wall.

    Attributes:
        yaw: rotation about y, in radians, of an object with its back to the wall.
        foot: middle of the wall on the floor, in metres.
        along: unit vector along the wall: the local x axis of such an object.
        half_length: half the length of the wall in metres.
    """

    yaw: float
    foot: Vector
    along: Vector
    half_length: float


def make_walls(half_size: Vector) -> tuple[Wall, Wall, Wall, Wall]:
    """Return the four walls, at +z (opposite the camera), -x, +x and -z."""
    x, _, z = half_size
    return (
        Wall(math.pi, (0.0, 0.0, z), (-1.0, 0.0, 0.0), x),
        Wall(math.pi / 2, (-x, 0.0, 0.0), (0.0, 0.0, -1.0), z),
        Wall(-math.pi / 2, (x, 0.0, 0.0), (0.0, 0.0, 1.0), z),
        Wall(0.0, (0.0, 0.0, -z), (1.0, 0.0, 0.0), x),
    )


def offset_from_wall(wall: Wall, s: float, distance_m: float) -> tuple[float, float]:
    """Return the x and z of a point ``s`` metres along a wall and ``distance_m`` in front of it."""
    x = wall.foot[0] + wall.along[0] * s + math.sin(wall.yaw) * distance_m
    z = wall.foot[2] + wall.along[2] * s + math.cos(wall.yaw) * distance_m
    return x, z


def make_shell(
    half_size: Vector, floor: Finish, wall: tuple[tuple[Material, ...], str, str]
) -> list[Model]:
    """Return the models of the floor, the ceiling and the walls.

    The walls are one model: four planes in the order of ``make_walls``.

    Args:
        half_size: half width, half height and half depth of the room in metres.
        floor: finish of the floor.
        wall: material of each wall, name of their colour, and word for their look.
    """
    x, half_y, z = half_size
    ground, top = Model("floor", *floor[1:]), Model("ceiling", "white")
    sides = Model("wall", *wall[1:])
    ground.add("plane", (0, 0, 0), (1, 1, 1), floor[0])
    upside_down = np.stack([point(1, 0, 0), point(0, -1, 0), point(0, 0, -1)], axis=1)
    top.add("plane", (0, 2 * half_y, 0), (1, 1, 1), WHITE, rotation=upside_down)
    up = point(0, 1, 0)
    for surface, foot, inward in zip(
        wall[0],
        ((0, 0, z), (-x, 0, 0), (x, 0, 0), (0, 0, -z)),
        (point(0, 0, -1), point(1, 0, 0), point(-1, 0, 0), point(0, 0, 1)),
        strict=True,
    ):
        turn = np.stack([cross(inward, up), inward, up], axis=1)
        sides.add("plane", foot, (1, 1, 1), surface, rotation=turn)
    return [ground, top, sides]


def make_window(
    draw: Draw, half_x: float, low: float, high: float, curtain_colour: str | None
) -> list[Model]:
    """Return a window that shows the sky, and its curtains if ``curtain_colour`` names a colour.

    The wall is at z = 0.

    Args:
        draw: stream of random numbers.
        half_x: half the width of the window in metres.
        low: height of its lower edge in metres.
        high: height of its upper edge in metres.
        curtain_colour: name of a colour; None for no curtains.
    """
    frame = (
        WHITE if draw.chance(0.7) else make_material(draw, draw.choice(("brown", "grey", "black")))
    )
    model = Model("window", "", "", half_x + 0.05, 0.03, high)
    y, half_y, bar = (low + high) / 2, (high - low) / 2, 0.03
    model.add("box", (0, y, 0.008), (half_x, half_y, 0.008), PANE, casts_shadow=False, sky=True)
    for s in (-1, 1):
        model.add_box((s * half_x, y, 0.02), (bar, half_y + bar, 0.02), frame)
        model.add_box((0, y + s * half_y, 0.02), (half_x, bar, 0.02), frame)
    model.add_box((0, low - 0.04, 0.05), (half_x + 0.08, 0.015, 0.05), frame)
    columns = draw.integer(1, 3)
    for i in range(1, columns):
        model.add_box((half_x * (2 * i / columns - 1), y, 0.015), (0.015, half_y, 0.015), frame)
    if draw.chance(0.4):
        model.add_box((0, low + 0.65 * (high - low), 0.015), (half_x, 0.012, 0.014), frame)
    if curtain_colour is None:
        return [model]
    return [model, _make_curtains(draw, half_x, high, curtain_colour)]


def _make_curtains(draw: Draw, half_x: float, high: float, colour: str) -> Model:
    """Return two curtains made of vertical folds, and their rod."""
    cloth = make_material(
        draw, colour, draw.choice(("solid", "solid", "stripes")), scale_m=0.1, gloss=0.0
    )
    rod = make_material(draw, draw.choice(("black", "grey", "brown")), gloss=0.3)
    bottom = 0.04 if draw.chance(0.6) else max(high - 1.5, 0.3)
    model = Model("curtain", colour, LOOKS[cloth.pattern], half_x + 0.3, 0.06, high + 0.12)
    radius, folds = 0.045, draw.integer(3, 4)
    for s in (-1, 1):
        for i in range(folds):
            x = s * (half_x + 0.2 - i * 0.075)
            height = (high + 0.1 - bottom) / 2
            deep = 0.075 + 0.012 * (i % 2)
            model.add(
                "frustum", (x, bottom + height, deep), (radius * 1.1, radius * 0.8, height), cloth
            )
    turn = align_y(point(1, 0, 0))
    model.add("frustum", (0, high + 0.11, 0.08), (0.014, 0.014, half_x + 0.3), rod, rotation=turn)
    return model


def make_door(draw: Draw, style: Style) -> Model:
    """Return a closed door with a frame, a handle and sometimes panels."""
    leaf, colour, look = style.make_hard_material(draw, 0.5)
    frame = WHITE if draw.chance(0.6) else leaf
    x, height = draw.uniform(0.38, 0.45), draw.uniform(1.95, 2.1)
    model = Model("door", colour, look, x + 0.06, 0.05, height + 0.06)
    model.add_box((0, height / 2, 0.012), (x, height / 2, 0.012), leaf)
    for s in (-1, 1):
        model.add_box((s * (x + 0.03), height / 2, 0.02), (0.035, height / 2, 0.02), frame)
    model.add_box((0, height + 0.03, 0.02), (x + 0.065, 0.035, 0.02), frame)
    if draw.chance(0.6):
        for low, high in ((0.15, 0.9), (1.05, height - 0.15)):
            model.add_box((0, (low + high) / 2, 0.026), (x - 0.1, (high - low) / 2, 0.006), leaf)
    side = draw.choice((-1, 1))
    knob = make_plain((0.7, 0.65, 0.5), gloss=0.6)
    model.add("ellipsoid", (side * (x - 0.06), 1.0, 0.06), (0.028, 0.028, 0.028), knob)
    return model


def make_picture(draw: Draw, style: Style) -> Model:
    """Return a framed picture of a landscape or a pattern."""
    x, y = draw.uniform(0.18, 0.5), draw.uniform(0.18, 0.38)
    low = draw.uniform(1.3, 1.45) - y / 2
    rim = draw.choice((make_plain((0.1, 0.1, 0.1)), WHITE, style.make_wood(draw)))
    model = Model("picture", "", "", x, 0.02, low + 2 * y)
    model.add_box((0, low + y, 0.012), (x, y, 0.012), rim)
    sky, land = draw.shuffled(("blue", "turquoise", "orange", "yellow", "green", "pink", "white"))[
        :2
    ]
    model.colour = sky
    inner_x, inner_y = x - 0.025, y - 0.025
    if draw.chance(0.5):
        pattern: Pattern = draw.choice(("checker", "stripes", "dots", "marble", "solid"))
        art = make_material(
            draw, sky, pattern, second=land, scale_m=draw.uniform(0.08, 0.3), gloss=0.0
        )
        model.add_box((0, low + y, 0.026), (inner_x, inner_y, 0.002), art)
        return model
    fraction = draw.uniform(0.3, 0.6)
    ground, above = make_material(draw, land, gloss=0.0), make_material(draw, sky, gloss=0.0)
    split = low + 0.025 + 2 * inner_y * fraction
    model.add_box(
        (0, (low + 0.025 + split) / 2, 0.026), (inner_x, inner_y * fraction, 0.002), ground
    )
    model.add_box(
        (0, (split + low + 2 * y - 0.025) / 2, 0.026),
        (inner_x, inner_y * (1 - fraction), 0.002),
        above,
    )
    disc = (draw.uniform(-0.5, 0.5) * x, split + inner_y * (1 - fraction) * 0.9, 0.029)
    radius = inner_y * (1 - fraction) * draw.uniform(0.3, 0.6)
    sun = make_material(draw, draw.choice(("yellow", "red", "white")), gloss=0.0)
    model.add("frustum", disc, (radius, radius, 0.002), sun, rotation=align_y(point(0, 0, 1)))
    return model


def make_rug(draw: Draw, style: Style) -> Model:
    """Return a rectangular or round rug."""
    colour = draw.choice(style.palette)
    pattern: Pattern = draw.choice(("solid", "stripes", "checker", "tiles", "dots"))
    cloth = make_material(
        draw,
        colour,
        pattern,
        second=draw.choice((None, "white", "grey")),
        scale_m=draw.uniform(0.2, 0.45),
        gloss=0.0,
    )
    x, z = draw.uniform(0.7, 1.2), draw.uniform(0.5, 0.85)
    model = Model("rug", colour, LOOKS[pattern], x, z, 0.012)
    if draw.chance(0.3):
        model.half_x = model.half_z = z
        model.add("frustum", (0, 0.006, 0), (z, z, 0.006), cloth)
    else:
        model.add_box((0, 0.006, 0), (x, 0.006, z), cloth)
    return model


def make_ceiling_lamp(draw: Draw, height: float) -> Model:
    """Return a ceiling lamp: a ball, a disc or a shade. Its origin is on the ceiling."""
    glow = make_plain((1.0, 0.96, 0.88), glow=1.2)
    model = Model("lamp", "white", "", 0.2, 0.2, 0.3)
    kind = draw.integer(0, 2)
    if kind == 0:
        model.add("frustum", (0, -0.035, 0), (0.2, 0.24, 0.035), glow, casts_shadow=False)
        return model
    drop = draw.uniform(0.25, 0.45)
    cord = make_plain((0.15, 0.15, 0.15))
    model.add("frustum", (0, -drop / 2, 0), (0.006, 0.006, drop / 2), cord, casts_shadow=False)
    if kind == 1:
        model.add("ellipsoid", (0, -drop - 0.1, 0), (0.13, 0.13, 0.13), glow, casts_shadow=False)
        return model
    model.colour = draw.choice(tuple(COLOURS))
    metal = make_material(draw, model.colour, gloss=0.3)
    model.add(
        "frustum",
        (0, -drop - 0.08, 0),
        (0.2, 0.06, 0.1),
        metal,
        caps=(False, True),
        casts_shadow=False,
    )
    model.add("ellipsoid", (0, -drop - 0.12, 0), (0.05, 0.05, 0.05), glow, casts_shadow=False)
    return model


def make_floor_finish(draw: Draw, kind: str) -> Finish:
    """Return the finish of a floor; ``kind`` is planks, tiles, carpet or checker."""
    if kind == "planks":
        return make_wood(draw, "planks", gloss=0.15), "brown", "wooden"
    if kind == "carpet":
        colour = draw.choice(("grey", "brown", "blue", "green", "red", "white"))
        return make_material(draw, colour, "marble", scale_m=0.03, gloss=0.0), colour, ""
    colour = draw.choice(("white", "grey", "brown", "black", "orange"))
    if kind == "checker":
        second = draw.choice(tuple(c for c in ("white", "black", "grey") if c != colour))
        scale = draw.uniform(0.25, 0.5)
        made = make_material(draw, colour, "checker", second=second, scale_m=scale, gloss=0.25)
        return made, colour, "checkered"
    scale = draw.uniform(0.25, 0.6)
    made = make_material(draw, colour, "tiles", second="grey", scale_m=scale, gloss=0.25)
    return made, colour, "tiled"


def make_wall_finishes(
    draw: Draw, colours: tuple[str, ...], tiled: bool
) -> tuple[tuple[Material, ...], str, str]:
    """Return one material per wall, the name of their colour, and the word for their look.

    The lower part of a wall is a skirting board or, with ``tiled``, tiles. One wall may differ from
    the others in colour or pattern.
    """
    colour = draw.choice(colours)
    pattern: Pattern = draw.choice(("solid", "solid", "solid", "solid", "stripes"))
    pale = _mix_with_white(draw, colour, draw.uniform(0.2, 0.65))
    low = draw.uniform(0.06, 0.1)
    skirting = make_plain((0.88, 0.88, 0.86)) if draw.chance(0.6) else make_wood(draw)
    if tiled:
        low, skirting = draw.uniform(1.1, 1.9), _make_wall_tiles(draw)
    r, g, b = (v * 0.82 for v in pale)
    scale, seed = draw.uniform(0.15, 0.4), draw.integer(0, 2**31 - 1)
    base = Material(pattern, pale, (r, g, b), scale, seed, lower=skirting, lower_m=low)
    made = [base] * 4
    if draw.chance(0.3):
        made[draw.integer(0, 2)] = _make_accent_wall(draw, skirting, low, bricks=not tiled)
    return tuple(made), colour, "tiled" if tiled else LOOKS[pattern]


def _make_wall_tiles(draw: Draw) -> Material:
    colour = draw.choice(("white", "turquoise", "blue", "grey", "pink"))
    joints = "grey" if colour == "white" else "white"
    scale = draw.uniform(0.1, 0.25)
    return make_material(draw, colour, "tiles", second=joints, scale_m=scale, gloss=0.3)


def _make_accent_wall(draw: Draw, skirting: Material, low: float, *, bricks: bool) -> Material:
    """Return the material of a wall of bare bricks or of a strong colour."""
    if bricks and draw.chance(0.3):
        colour = draw.choice(("red", "brown", "white", "orange"))
        bare = make_material(draw, colour, "bricks", second="grey", scale_m=0.24, gloss=0.0)
        return replace(bare, lower=skirting, lower_m=low)
    bold = _mix_with_white(draw, draw.choice(tuple(COLOURS)), draw.uniform(0.0, 0.35))
    return Material("solid", bold, bold, lower=skirting, lower_m=low)


def _mix_with_white(draw: Draw, colour: str, fraction: float) -> Vector:
    """Return a named colour mixed with white: linear RGB, ``fraction`` in [0, 1] is white."""
    first = make_material(draw, colour).colour
    r, g, b = (v + (0.84 - v) * fraction for v in first)
    return r, g, b
