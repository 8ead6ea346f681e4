"""Kitchen and bathroom units, screens, geometric solids and small objects."""

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms.furniture import DARK_METAL, METAL
from diffsight.rooms.materials import COLOURS, LOOKS, make_material, make_plain
from diffsight.rooms.models import Model, Style, Surface
from diffsight.rooms.world import Material, Pattern, align_y, cross, point, rotation_y

SCREEN = make_plain((0.05, 0.06, 0.08), gloss=0.5)


def make_refrigerator(draw: Draw, style: Style) -> Model:
    """Return a refrigerator with two doors and two handles."""
    colour = draw.choice(("white", "white", "grey", "black", "red"))
    body = make_material(draw, colour, gloss=0.4)
    x, z, height = draw.uniform(0.29, 0.36), 0.32, draw.uniform(1.55, 1.9)
    model = Model("refrigerator", colour, "", x, z, height)
    model.add_box((0, height / 2, -0.02), (x, height / 2, z - 0.02), body)
    split = height * draw.uniform(0.3, 0.7)
    for low, high in ((0.04, split), (split, height)):
        centre = (0.0, (low + high) / 2, z - 0.02)
        model.add_box(centre, (x - 0.004, (high - low) / 2 - 0.006, 0.02), body)
        model.add_box(
            (x - 0.07, (low + high) / 2, z + 0.012), (0.012, (high - low) / 4, 0.012), METAL
        )
    return model


def make_oven(draw: Draw, style: Style) -> Model:
    """Return a cooker with four plates, a window and knobs."""
    colour = draw.choice(("white", "grey", "black"))
    body = make_material(draw, colour, gloss=0.3)
    model = Model("oven", colour, "", 0.3, 0.3, 0.88)
    model.add_box((0, 0.44, -0.01), (0.3, 0.44, 0.29), body)
    model.add_box((0, 0.36, 0.285), (0.25, 0.22, 0.008), SCREEN)
    model.add_box((0, 0.64, 0.3), (0.24, 0.012, 0.015), METAL)
    for i in range(4):
        foot = (-0.14 + 0.28 * (i % 2), 0.88, -0.13 + 0.26 * (i // 2))
        model.add_post(foot, 0.012, 0.09, DARK_METAL)
        knob = (-0.18 + 0.12 * i, 0.77, 0.285)
        size = (0.022, 0.022, 0.014)
        model.add("frustum", knob, size, METAL, rotation=align_y(point(0, 0, 1)))
    return model


def make_sink(draw: Draw, style: Style) -> Model:
    """Return a wash basin on a column, with a tap."""
    ceramic = make_plain((0.93, 0.93, 0.92), gloss=0.5)
    model = Model("sink", "white", "", 0.28, 0.24, 0.98)
    model.add_post((0, 0.0, -0.04), 0.68, 0.09, ceramic)
    model.add("frustum", (0, 0.76, 0), (0.16, 0.24, 0.09), ceramic, caps=(True, False))
    model.add(
        "frustum", (0, 0.80, 0), (0.19, 0.19, 0.004), make_plain((0.85, 0.88, 0.9), gloss=0.3)
    )
    model.add_box((0, 0.83, -0.2), (0.24, 0.02, 0.04), ceramic)
    model.add_post((0, 0.85, -0.2), 0.12, 0.014, METAL)
    model.add_limb(point(0, 0.96, -0.2), point(0, 0.94, -0.08), 0.012, METAL)
    return model


def make_toilet(draw: Draw, style: Style) -> Model:
    """Return a toilet with bowl, lid and tank."""
    ceramic = make_plain((0.93, 0.93, 0.92), gloss=0.5)
    lid = (
        ceramic if draw.chance(0.6) else make_material(draw, draw.choice(style.palette), gloss=0.3)
    )
    model = Model("toilet", "white", "", 0.2, 0.34, 0.78)
    model.add_box((0, 0.17, -0.12), (0.1, 0.17, 0.16), ceramic)
    model.add("frustum", (0, 0.2, 0.1), (0.12, 0.19, 0.2), ceramic)
    model.add("ellipsoid", (0, 0.41, 0.1), (0.195, 0.022, 0.23), lid)
    model.add_box((0, 0.6, -0.26), (0.19, 0.18, 0.08), ceramic)
    model.add_post((0, 0.78, -0.26), 0.01, 0.025, METAL)
    return model


def make_bathtub(draw: Draw, style: Style) -> Model:
    """Return a bathtub with a tap at one end; its long side is along the wall."""
    ceramic = make_plain((0.93, 0.93, 0.92), gloss=0.5)
    outside = (
        ceramic if draw.chance(0.5) else make_material(draw, draw.choice(style.palette), gloss=0.2)
    )
    x, z, height, thick = draw.uniform(0.72, 0.85), 0.36, draw.uniform(0.5, 0.58), 0.035
    model = Model("bathtub", "white", "", x, z, height)
    for s in (-1, 1):
        model.add_box((0, height / 2, s * (z - thick)), (x, height / 2, thick), outside)
        model.add_box((s * (x - thick), height / 2, 0), (thick, height / 2, z - 2 * thick), outside)
    for s in (-1, 1):
        model.add_limb(
            point(-x + thick, height, s * (z - thick)),
            point(x - thick, height, s * (z - thick)),
            0.045,
            ceramic,
        )
        model.add_limb(
            point(s * (x - thick), height, -z + thick),
            point(s * (x - thick), height, z - thick),
            0.045,
            ceramic,
        )
    water = make_plain((0.62, 0.8, 0.85), gloss=0.5) if draw.chance(0.4) else ceramic
    model.add_box((0, 0.11, 0), (x - 2 * thick, 0.11, z - 2 * thick), water)
    model.add_post((x - thick, height, 0), 0.14, 0.018, METAL)
    model.add_limb(
        point(x - thick, height + 0.13, 0), point(x - 0.18, height + 0.11, 0), 0.014, METAL
    )
    return model


def make_tv(draw: Draw, style: Style, *, monitor: bool = False) -> Model:
    """Return a television or a monitor: a dark or coloured screen on a foot."""
    x = 0.26 if monitor else draw.uniform(0.42, 0.6)
    y, lift = x * 0.58, 0.1 if monitor else 0.06
    model = Model("tv", "black", "", x, 0.1, 2 * y + lift)
    model.add_box((0, 0.01, 0), (x * 0.4, 0.01, 0.09), DARK_METAL)
    model.add_box((0, lift / 2 + 0.02, -0.02), (0.03, lift / 2 + 0.02, 0.012), DARK_METAL)
    model.add_box((0, lift + y, 0), (x, y, 0.018), DARK_METAL)
    face = SCREEN
    if draw.chance(0.4):
        colour = draw.choice(("blue", "green", "turquoise", "orange", "purple"))
        pattern: Pattern = draw.choice(("solid", "marble", "stripes"))
        face = make_material(draw, colour, pattern, second="white", scale_m=0.2, gloss=0.2)
    model.add_box((0, lift + y, 0.018), (x - 0.015, y - 0.015, 0.004), face)
    return model


def _make_toy_material(draw: Draw, style: Style) -> tuple[Material, str, str]:
    """Return a material for a geometric solid, the name of its colour, and a word for its look."""
    patterns: tuple[Pattern, ...] = (
        "solid",
        "solid",
        "solid",
        "checker",
        "stripes",
        "dots",
        "wood",
    )
    pattern = draw.choice(patterns)
    if pattern == "wood":
        return style.make_wood(draw), "brown", "wooden"
    colour = draw.choice(tuple(COLOURS))
    second = draw.choice((None, "white", "black"))
    scale = draw.uniform(0.1, 0.2)
    made = make_material(
        draw, colour, pattern, second=None if second == colour else second, scale_m=scale
    )
    return made, colour, LOOKS[pattern]


def make_solid(draw: Draw, style: Style, kind: str, size: float) -> Model:
    """Return a solid of about ``size`` metres; ``kind`` is box, sphere, cylinder or cone."""
    surface, colour, look = _make_toy_material(draw, style)
    x, y = size / 2 * draw.uniform(0.75, 1.2), size / 2 * draw.uniform(0.75, 1.25)
    model = Model(kind, colour, look, x, x, 2 * y)
    if kind == "box":
        model.half_z = x * draw.uniform(0.7, 1.3)
        model.add_box((0, y, 0), (x, y, model.half_z), surface)
    elif kind == "sphere":
        model.height = 2 * x
        model.add("ellipsoid", (0, x, 0), (x, x, x), surface)
    elif kind == "cylinder":
        hollow = draw.chance(0.25)
        model.add("frustum", (0, y, 0), (x, x, y), surface, caps=(True, not hollow))
    else:
        y *= 1.3
        model.height = 2 * y
        tip = draw.choice((0.0, 0.0, 0.0, x * 0.4))
        model.add("frustum", (0, y, 0), (x, tip, y), surface)
    if kind in ("box", "cylinder") and size > 0.35:
        model.surfaces.append(Surface((0, 2 * y, 0), x * 0.3, model.half_z * 0.3))
    return model


def make_vase(draw: Draw, style: Style) -> Model:
    """Return a vase, sometimes with flowers."""
    colour = draw.choice(tuple(COLOURS))
    glaze = make_material(
        draw, colour, draw.choice(("solid", "solid", "stripes")), scale_m=0.06, gloss=0.4
    )
    size = draw.uniform(0.8, 1.3)
    radius = 0.065 * size
    model = Model("vase", colour, "", radius * 1.2, radius * 1.2, 0.25 * size)
    model.add("ellipsoid", (0, 0.085 * size, 0), (radius, 0.085 * size, radius), glaze)
    neck = (radius * 0.4, radius * 0.75, 0.055 * size)
    model.add("frustum", (0, 0.195 * size, 0), neck, glaze, caps=(False, False))
    if draw.chance(0.5):
        petals = make_material(
            draw, draw.choice(("red", "yellow", "pink", "purple", "white", "orange"))
        )
        stem = make_material(draw, "green")
        for _ in range(draw.integer(2, 4)):
            tip = point(
                draw.uniform(-0.1, 0.1), draw.uniform(0.36, 0.46) * size, draw.uniform(-0.1, 0.1)
            )
            model.add_limb(point(0, 0.2 * size, 0), tip, 0.005, stem)
            model.add("ellipsoid", tip, (0.03, 0.025, 0.03), petals)
        model.height = 0.46 * size
    return model


def make_books(draw: Draw, style: Style) -> Model:
    """Return a pile of one to four books."""
    first = draw.choice(tuple(COLOURS))
    model = Model("book", first, "", 0.12, 0.09)
    for i in range(draw.integer(1, 4)):
        cover = make_material(draw, first if i == 0 else draw.choice(tuple(COLOURS)), gloss=0.1)
        half = (draw.uniform(0.09, 0.12), draw.uniform(0.010, 0.02), draw.uniform(0.065, 0.09))
        turn = rotation_y(draw.uniform(-0.2, 0.2))
        centre = (0.0, model.height + half[1], 0.0)
        model.add("box", centre, half, cover, rotation=turn)
        model.height += 2 * half[1]
    return model


def make_cushion(draw: Draw, style: Style) -> Model:
    """Return a cushion that leans backwards a little."""
    cloth, colour, look = style.make_fabric(draw)
    model = Model("cushion", colour, look, 0.2, 0.09, 0.36)
    lean = align_y(point(0, 1, -0.3))
    model.add("ellipsoid", (0, 0.17, 0), (0.21, 0.18, 0.075), cloth, rotation=_upright(lean))
    return model


def _upright(turn: np.ndarray) -> np.ndarray:
    """Return a rotation with the y axis of ``turn`` and the x axis of the model."""
    y = turn[:, 1]
    x = point(1, 0, 0)
    return np.stack([x, y, cross(x, y)], axis=1)
