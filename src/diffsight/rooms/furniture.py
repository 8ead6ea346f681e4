"""Furniture that stands on the floor, table lamps and plants."""

from diffsight.ops.draw import Draw
from diffsight.rooms.materials import make_material, make_plain, shade
from diffsight.rooms.models import Model, Style, Surface
from diffsight.rooms.world import Material, Vector, align_y, length, point

METAL = make_plain((0.62, 0.63, 0.65), gloss=0.5)
DARK_METAL = make_plain((0.17, 0.17, 0.18), gloss=0.4)
SEAT_M = 0.46  # height of the seat of a chair
BULB = make_plain((1.0, 0.93, 0.80), glow=1.6)


def make_table(draw: Draw, style: Style, *, desk: bool = False, low: bool = False) -> Model:
    """Return a dining table, a desk, or with ``low`` a coffee table, round or with four legs."""
    top, colour, look = style.make_hard_material(draw)
    height = draw.uniform(0.35, 0.48) if low else draw.uniform(0.72, 0.78)
    thick = draw.uniform(0.012, 0.03)
    model = Model("table", colour, look, height=height)
    legs = top if draw.chance(0.5) else draw.choice((METAL, DARK_METAL, style.make_wood(draw)))
    if not desk and draw.chance(0.35):
        radius = draw.uniform(0.35, 0.5) if low else draw.uniform(0.45, 0.65)
        model.half_x = model.half_z = radius
        model.add("frustum", (0, height - thick, 0), (radius, radius, thick), top)
        model.add_post((0, 0.03, 0), height - 0.03 - 2 * thick, draw.uniform(0.03, 0.06), legs)
        model.add("frustum", (0, 0.015, 0), (radius * 0.55, radius * 0.5, 0.015), legs)
        model.surfaces.append(Surface((0, height, 0), radius * 0.65, radius * 0.65))
        return model
    x = draw.uniform(0.45, 0.65) if low or desk else draw.uniform(0.5, 0.9)
    z = draw.uniform(0.25, 0.35) if low or desk else draw.uniform(0.36, 0.5)
    model.half_x, model.half_z = x, z
    model.add_box((0, height - thick, 0), (x, thick, z), top)
    leg = draw.uniform(0.018, 0.035)
    round_legs = draw.chance(0.4)
    inset = leg + 0.02
    for sx in (-1, 1):
        for sz in (-1, 1):
            foot = (sx * (x - inset), 0.0, sz * (z - inset))
            _add_leg(model, foot, height - 2 * thick, leg, legs, round_legs)
    if desk and draw.chance(0.6):
        model.add_box((x - 0.16, height - 0.22, 0), (0.13, 0.2 - thick, z - 0.06), top)
    model.surfaces.append(Surface((0, height, 0), x - 0.08, z - 0.06))
    return model


def _add_leg(
    model: Model, foot: Vector, height: float, radius: float, surface: Material, is_round: bool
) -> None:
    if is_round:
        model.add_post(foot, height, radius, surface)
    else:
        centre = (foot[0], foot[1] + height / 2, foot[2])
        model.add_box(centre, (radius, height / 2, radius), surface)


def make_chair(draw: Draw, style: Style) -> Model:
    """Return a chair with four legs, or an office chair on a pole."""
    frame, colour, look = style.make_hard_material(draw, 0.5)
    seat, depth, height = SEAT_M, draw.uniform(0.2, 0.23), draw.uniform(0.82, 1.0)
    x = draw.uniform(0.19, 0.23)
    model = Model("chair", colour, look, x, depth + 0.02, height)
    cloth, cloth_colour, cloth_look = style.make_fabric(draw)
    if draw.chance(0.5):
        model.colour, model.look = cloth_colour, cloth_look
        pad, back = cloth, cloth
    else:
        pad, back = frame, frame
    model.add_box((0, seat - 0.025, 0), (x, 0.025, depth), pad)
    thick = 0.016
    if draw.chance(0.25):
        model.add_post((0, 0.06, 0), seat - 0.11, 0.03, DARK_METAL)
        model.add("frustum", (0, 0.03, 0), (0.22, 0.05, 0.03), DARK_METAL)
        model.add_box((0, seat + 0.04, -depth), (0.03, 0.08, thick), DARK_METAL)
        model.add_box(
            (0, (seat + 0.12 + height) / 2, -depth), (x, (height - seat - 0.12) / 2, 0.03), back
        )
        return model
    for sx in (-1, 1):
        foot = (sx * (x - thick), 0.0, depth - thick)
        _add_leg(model, foot, seat - 0.05, thick, frame, is_round=False)
        model.add_box((sx * (x - thick), height / 2, -depth), (thick, height / 2, thick), frame)
    if draw.chance(0.5):
        middle = (seat + 0.1 + height) / 2
        model.add_box((0, middle, -depth), (x - 2 * thick, (height - seat - 0.1) / 2, 0.012), back)
    else:
        for fraction in (0.35, 0.65, 0.95):
            y = seat + fraction * (height - seat) - 0.03
            model.add_box((0, y, -depth), (x - 2 * thick, 0.03, 0.01), back)
    return model


def make_sofa(draw: Draw, style: Style) -> Model:
    """Return an armchair or a sofa of two or three seats."""
    cloth, colour, look = style.make_fabric(draw)
    seats = draw.integer(1, 3)
    x = 0.16 + 0.31 * seats + draw.uniform(0, 0.06)
    z, seat, back = draw.uniform(0.40, 0.46), draw.uniform(0.40, 0.44), draw.uniform(0.74, 0.88)
    model = Model("sofa", colour, look, x, z, back)
    arm, high = draw.uniform(0.07, 0.1), draw.uniform(0.55, 0.62)
    base, thick = 0.07, 0.09
    model.add_box(
        (0, (base + seat - 0.13) / 2 + 0.035, 0), (x, (seat - 0.13 - base) / 2 + 0.035, z), cloth
    )
    model.add_box((0, (base + back) / 2, -z + thick), (x, (back - base) / 2, thick), cloth)
    for sx in (-1, 1):
        model.add_box(
            (sx * (x - arm), (base + high - arm) / 2, 0.02),
            (arm, (high - arm - base) / 2, z - 0.02),
            cloth,
        )
        model.add_limb(
            point(sx * (x - arm), high - arm, -z + arm),
            point(sx * (x - arm), high - arm, z - arm),
            arm,
            cloth,
        )
        model.add_box((sx * (x - 0.06), base / 2, z - 0.08), (0.02, base / 2, 0.02), DARK_METAL)
    width = (x - 2 * arm) / seats
    for i in range(seats):
        centre = -(x - 2 * arm) + width * (2 * i + 1)
        model.add_box(
            (centre, seat - 0.065, thick), (width - 0.008, 0.065, z - thick - 0.01), cloth
        )
        model.add(
            "ellipsoid", (centre, seat, thick), (width * 0.97, 0.035, z - thick - 0.03), cloth
        )
    model.surfaces.append(Surface((0, seat + 0.035, 0.05), x - 2 * arm - 0.1, 0.08, 0.5))
    return model


def make_bed(draw: Draw, style: Style) -> Model:
    """Return a bed with a headboard at the back, a blanket and pillows."""
    frame = style.make_wood(draw) if draw.chance(0.7) else make_material(draw, "white")
    cloth, colour, look = style.make_fabric(draw)
    x = draw.choice((0.47, 0.62, 0.8))
    z, top, head = draw.uniform(0.98, 1.05), draw.uniform(0.42, 0.55), draw.uniform(0.85, 1.15)
    model = Model("bed", colour, look, x + 0.02, z, head)
    linen = make_plain((0.93, 0.92, 0.90))
    model.add_box((0, 0.2, 0), (x + 0.02, 0.09, z), frame)
    for sx in (-1, 1):
        model.add_box((sx * (x - 0.04), 0.055, z - 0.06), (0.03, 0.055, 0.03), frame)
        model.add_box((sx * (x - 0.04), 0.055, -z + 0.06), (0.03, 0.055, 0.03), frame)
    model.add_box((0, head / 2, -z + 0.025), (x + 0.02, head / 2, 0.025), frame)
    model.add_box((0, (0.29 + top) / 2, 0.025), (x, (top - 0.29) / 2, z - 0.03), linen)
    model.add_box(
        (0, (0.27 + top) / 2 + 0.012, 0.36), (x + 0.015, (top - 0.27) / 2 + 0.012, z - 0.35), cloth
    )
    for sx in (-1, 1) if x > 0.55 else (0,):
        centre = (sx * x * 0.48, top + 0.05, -z + 0.3)
        model.add("ellipsoid", centre, (min(x * 0.42, 0.32), 0.09, 0.2), linen)
    model.surfaces.append(Surface((0, top + 0.03, 0.45), x - 0.2, 0.3))
    return model


def make_shelf(draw: Draw, style: Style) -> Model:
    """Return a bookcase of three to five boards with books."""
    frame, colour, look = style.make_hard_material(draw)
    x, z = draw.uniform(0.35, 0.6), draw.uniform(0.14, 0.18)
    levels = draw.integer(3, 5)
    height = levels * draw.uniform(0.32, 0.4) + 0.04
    model = Model("shelf", colour, look, x, z, height)
    thick = 0.012
    for sx in (-1, 1):
        model.add_box((sx * (x - thick), height / 2, 0), (thick, height / 2, z), frame)
    model.add_box((0, height / 2, -z + 0.006), (x - 2 * thick, height / 2 - thick, 0.006), frame)
    step = (height - 2 * thick) / levels
    for level in range(levels + 1):
        model.add_box((0, thick + level * step, 0.006), (x - 2 * thick, thick, z - 0.006), frame)
    for level in range(levels):
        _add_books(draw, style, model, 2 * thick + level * step, step - 0.05)
    model.surfaces.append(Surface((0, height, 0), x - 0.1, 0.06))
    return model


def _add_books(draw: Draw, style: Style, model: Model, y: float, room: float) -> None:
    """Add blocks of books to a board; each block is one striped solid.

    Args:
        draw: stream of random numbers.
        style: colours of the room.
        model: the bookcase.
        y: height of the board in metres.
        room: free height above the board in metres.
    """
    x, z = model.half_x - 0.05, model.half_z
    left = -x
    while left < x - 0.1:
        half = min(draw.uniform(0.05, 0.16), (x - left) / 2)
        if draw.chance(0.65):
            high = room * draw.uniform(0.55, 0.9) / 2
            colour = draw.choice((*style.palette, "red", "blue", "green", "white", "black"))
            cover = make_material(
                draw, colour, "stripes", scale_m=draw.uniform(0.05, 0.12), gloss=0.0
            )
            centre = (left + half, y + high, draw.uniform(-0.03, 0.0))
            model.add_box(centre, (half - 0.004, high, z - 0.045), cover)
        left += 2 * half


def make_cabinet(draw: Draw, style: Style, *, counter: bool = False) -> Model:
    """Return a chest of drawers, a wardrobe, or with ``counter`` a kitchen unit."""
    body, colour, look = style.make_hard_material(draw, 0.45)
    if counter:
        x, z, height = draw.uniform(0.4, 0.75), 0.30, draw.uniform(0.86, 0.92)
    else:
        width_and_height = ((0.45, 0.85), (0.5, 1.1), (0.5, 1.95))
        x, height = draw.choice(width_and_height)
        x, height = x * draw.uniform(0.9, 1.15), height * draw.uniform(0.92, 1.05)
        z = draw.uniform(0.2, 0.26)
    model = Model("cabinet", colour, look, x, z, height)
    model.add_box((0, height / 2 + 0.04, -0.01), (x, height / 2 - 0.04, z - 0.01), body)
    model.add_box((0, 0.04, -0.03), (x - 0.03, 0.04, z - 0.04), DARK_METAL)
    if counter:
        top = make_material(draw, draw.choice(("white", "grey", "black")), "marble", gloss=0.4)
        model.parts.pop(0)
        model.add_box((0, height / 2 + 0.02, -0.01), (x, height / 2 - 0.06, z - 0.01), body)
        model.add_box((0, height - 0.02, 0), (x + 0.01, 0.02, z), top)
    columns = 1 if x < 0.3 else 2
    rows = 1 if counter or height > 1.5 else draw.integer(2, 4)
    front = Material(
        body.pattern, shade(body.colour, 1.12), body.second, body.scale_m, body.seed + 5, body.gloss
    )
    _add_fronts(model, (x, z, height - (0.06 if counter else 0.02)), columns, rows, front)
    if height < 1.3:
        model.surfaces.append(Surface((0, height, 0), x - 0.1, z - 0.12))
    return model


def make_bedside_cabinet(draw: Draw, style: Style) -> Model:
    """Return a bedside cabinet."""
    body, colour, look = style.make_hard_material(draw)
    x, z, height = draw.uniform(0.2, 0.26), 0.2, draw.uniform(0.45, 0.58)
    model = Model("cabinet", colour, look, x, z, height)
    model.add_box((0, height / 2 + 0.04, -0.01), (x, height / 2 - 0.04, z - 0.01), body)
    model.add_box((0, 0.04, -0.03), (x - 0.03, 0.04, z - 0.04), DARK_METAL)
    _add_fronts(model, (x, z, height - 0.02), 1, 2, body)
    model.surfaces.append(Surface((0, height, 0), x - 0.03, z - 0.04))
    return model


def _add_fronts(model: Model, size: Vector, columns: int, rows: int, front: Material) -> None:
    """Add doors and drawers with knobs; ``size`` is half width, half depth and height."""
    x, z, height = size
    low = 0.09
    half_x, half_y = x / columns, (height - low) / rows / 2
    for column in range(columns):
        for row in range(rows):
            cx = -x + half_x * (2 * column + 1)
            cy = low + half_y * (2 * row + 1)
            model.add_box((cx, cy, z - 0.016), (half_x - 0.008, half_y - 0.008, 0.008), front)
            knob_x = cx + (half_x - 0.05) * (1 - 2 * column) if rows == 1 and columns > 1 else cx
            model.add("ellipsoid", (knob_x, cy, z), (0.016, 0.016, 0.016), METAL)


def make_floor_lamp(draw: Draw, style: Style) -> Model:
    """Return a floor lamp with a conical shade."""
    height = draw.uniform(1.35, 1.7)
    return _make_lamp(draw, style, height, draw.uniform(0.16, 0.22), 0.012)


def make_table_lamp(draw: Draw, style: Style) -> Model:
    """Return a lamp for tables and cabinets."""
    return _make_lamp(draw, style, draw.uniform(0.36, 0.5), draw.uniform(0.1, 0.14), 0.01)


def _make_lamp(draw: Draw, style: Style, height: float, radius: float, pole: float) -> Model:
    colour = draw.choice((*style.palette, "white", "yellow"))
    cloth = make_material(draw, colour, gloss=0.0)
    lit = Material("solid", cloth.colour, cloth.second, glow=draw.choice((0.0, 0.5, 0.9)))
    stand = draw.choice((METAL, DARK_METAL, style.make_wood(draw)))
    model = Model("lamp", colour, "", radius, radius, height)
    shade_half = radius * draw.uniform(0.6, 0.8)
    model.add("frustum", (0, 0.012, 0), (radius * 0.75, radius * 0.6, 0.012), stand)
    model.add_post((0, 0.024, 0), height - shade_half - 0.03, pole, stand)
    centre = (0, height - shade_half, 0)
    size = (radius, radius * draw.uniform(0.5, 0.9), shade_half)
    model.add("frustum", centre, size, lit, caps=(False, False), casts_shadow=False)
    bulb = (0.035, 0.045, 0.035)
    model.add("ellipsoid", (0, height - shade_half, 0), bulb, BULB, casts_shadow=False)
    return model


def make_plant(draw: Draw, style: Style, *, small: bool = False) -> Model:
    """Return a plant in a pot."""
    factor = 0.35 if small else draw.uniform(0.8, 1.2)
    radius, pot = 0.16 * factor, 0.3 * factor
    colour = draw.choice(("orange", "brown", "white", "grey", "turquoise"))
    clay = make_material(
        draw, colour, draw.choice(("solid", "solid", "stripes")), scale_m=0.1 * factor
    )
    spread = 0.3 * factor
    model = Model("plant", "green", "", spread, spread, 1.05 * factor)
    shape = (radius * 0.72, radius, pot / 2)
    model.add("frustum", (0, pot / 2, 0), shape, clay, caps=(True, False))
    earth = make_plain((0.22, 0.15, 0.10))
    model.add("frustum", (0, pot * 0.8, 0), (radius * 0.9, radius * 0.9, 0.004), earth)
    leaves = [make_material(draw, "green", gloss=0.1) for _ in range(2)]
    model.add_limb(point(0, pot * 0.8, 0), point(0, pot * 2.2, 0), 0.012 * factor, earth)
    for i in range(draw.integer(6, 9)):
        way = point(draw.uniform(-1, 1), draw.uniform(0.2, 1.3), draw.uniform(-1, 1))
        foot = point(0, pot * draw.uniform(1.0, 2.1), 0)
        long = draw.uniform(0.12, 0.2) * factor
        size = length(way)
        centre = foot + way / size * long * 0.9
        shape = (long * 0.38, long, long * draw.uniform(0.12, 0.3))
        model.add("ellipsoid", centre, shape, leaves[i % 2], rotation=align_y(way))
    return model
