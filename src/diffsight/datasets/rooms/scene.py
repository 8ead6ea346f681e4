"""Sampling a scene: room, camera, furniture, light, each from a stream of random numbers of its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffsight.datasets.rooms import building, fixtures, furniture
from diffsight.datasets.rooms.building import walls
from diffsight.datasets.rooms.draw import Draw
from diffsight.datasets.rooms.layout import Layout
from diffsight.datasets.rooms.materials import plain
from diffsight.datasets.rooms.models import Model, Style
from diffsight.datasets.rooms.person import person
from diffsight.datasets.rooms.world import Light, Scene, Vector, View, compose, point, rotation_y

Furnish = Callable[[Layout, Draw, Style], None]


@dataclass(frozen=True)
class Kind:
    """What sets one type of room apart.

    Attributes:
        palette: colour words of furniture.
        floors: kinds of floor, see ``building.floor_material``.
        wall_colours: colour words, mixed with white.
        tiled: chance of a tiled dado.
        curtains: chance of curtains at a window.
        furnish: puts the typical furniture in, most typical first.
    """

    palette: tuple[str, ...]
    floors: tuple[str, ...]
    wall_colours: tuple[str, ...]
    tiled: float
    curtains: float
    furnish: Furnish


def _facing(draw: Draw, layout: Layout) -> Callable[[], float]:
    """Yaws of free-standing things: mostly square to the room, sometimes not."""
    del layout
    quarter = math.pi / 2
    return lambda: (
        quarter * draw.integer(0, 3) + (draw.uniform(-0.5, 0.5) if draw.chance(0.4) else 0.0)
    )


def _chairs(layout: Layout, draw: Draw, style: Style, index: int, count: int) -> None:
    """Chairs around a table, pushed in a little, facing it."""
    table = layout.things[index]
    like = draw.uniform(0, 1e6)
    for side in draw.shuffled((0, 1, 2, 3))[:count]:
        model = furniture.chair(_again(layout, draw, like), style)
        yaw = table.yaw + side * math.pi / 2
        out = (table.half_z, table.half_x)[side % 2] + model.half_z + 0.03
        s, c = math.sin(yaw), math.cos(yaw)
        x, z = table.position[0] + s * out, table.position[2] + c * out
        chair = layout.at(model, x, z, yaw + math.pi + draw.uniform(-0.12, 0.12), margin_m=0.0)
        if chair is not None and draw.chance(0.15):
            _sit(layout, draw, style, chair)


def _again(layout: Layout, draw: Draw, like: float) -> Draw:
    """The same stream every time, so that the chairs of a set are alike."""
    del draw
    return Draw("chairs", layout.draw_seed, int(like), "model")


def _sit(layout: Layout, draw: Draw, style: Style, chair: int) -> None:
    seat = layout.things[chair]
    model = person(draw, style, seat_m=0.465)
    back = 0.06
    x = seat.position[0] - math.sin(seat.yaw) * back
    z = seat.position[2] - math.cos(seat.yaw) * back
    layout.add(model, (x, 0.0, z), seat.yaw, chair)


def _wall_things(layout: Layout, draw: Draw, style: Style, makers: list) -> None:
    for maker in makers:
        layout.against_wall(maker(draw, style))


def _living(layout: Layout, draw: Draw, style: Style) -> None:
    sofa = layout.against_wall(furniture.sofa(draw, style))
    if sofa is not None and draw.chance(0.75):
        _coffee_table(layout, draw, style, sofa)
    _wall_things(
        layout,
        draw,
        style,
        draw.shuffled((furniture.shelf, furniture.cabinet, furniture.plant))[:2],
    )
    if draw.chance(0.5):
        layout.against_wall(furniture.floor_lamp(draw, style))
    if draw.chance(0.4):
        layout.anywhere(furniture.sofa(draw, style), _facing(draw, layout))
    layout.on_top(fixtures.tv(draw, style), kinds=("cabinet",))


def _coffee_table(layout: Layout, draw: Draw, style: Style, sofa: int) -> None:
    seat = layout.things[sofa]
    model = furniture.table(draw, style, low=True)
    out = seat.half_z + model.half_z + draw.uniform(0.25, 0.5)
    x, z = seat.position[0] + math.sin(seat.yaw) * out, seat.position[2] + math.cos(seat.yaw) * out
    layout.at(model, x, z, seat.yaw)


def _bedroom(layout: Layout, draw: Draw, style: Style) -> None:
    bed = layout.against_wall(furniture.bed(draw, style))
    if bed is not None:
        thing = layout.things[bed]
        for side in (-1, 1):
            if draw.chance(0.6):
                model = furniture.bedside(draw, style)
                s, c = math.sin(thing.yaw), math.cos(thing.yaw)
                out = side * (thing.half_x + model.half_x + 0.06)
                back = -thing.half_z + model.half_z
                x = thing.position[0] + c * out + s * back
                z = thing.position[2] - s * out + c * back
                layout.at(model, x, z, thing.yaw)
    _wall_things(
        layout,
        draw,
        style,
        draw.shuffled((furniture.cabinet, furniture.shelf, furniture.plant))[:1],
    )
    if draw.chance(0.4):
        layout.anywhere(furniture.chair(draw, style), _facing(draw, layout))
    layout.on_top(furniture.table_lamp(draw, style), kinds=("cabinet",))


def _kitchen(layout: Layout, draw: Draw, style: Style) -> None:
    units = [fixtures.refrigerator(draw, style), fixtures.oven(draw, style)]
    units += [furniture.cabinet(draw, style, counter=True) for _ in range(draw.integer(1, 3))]
    _row(layout, draw, draw.shuffled(units))
    if draw.chance(0.8):
        table = layout.anywhere(furniture.table(draw, style), _facing(draw, layout))
        if table is not None:
            _chairs(layout, draw, style, table, draw.integer(1, 4))


def _row(layout: Layout, draw: Draw, models: list[Model]) -> None:
    """Units side by side along one wall."""
    width = sum(2 * m.half_x for m in models) + 0.02 * len(models)
    for number in draw.shuffled((0, 0, 1, 2)):
        wall = walls(layout.half_size)[number]
        if width > 2 * wall.half_length - 0.2:
            continue
        free = wall.half_length - width / 2 - 0.06
        s = draw.uniform(-free, free) - width / 2
        placed = 0
        for model in models:
            centre = s + model.half_x
            x, z = building.before(wall, centre, model.half_z + 0.06)
            placed += layout.at(model, x, z, wall.yaw, margin_m=0.0) is not None
            s += 2 * model.half_x + 0.02
        if placed:
            return
    for model in models:
        layout.against_wall(model)


def _dining(layout: Layout, draw: Draw, style: Style) -> None:
    table = layout.anywhere(furniture.table(draw, style), _facing(draw, layout))
    if table is not None:
        _chairs(layout, draw, style, table, draw.integer(2, 4))
        layout.on_top(fixtures.vase(draw, style), kinds=("table",))
    _wall_things(
        layout,
        draw,
        style,
        draw.shuffled((furniture.cabinet, furniture.shelf, furniture.plant))[: draw.integer(1, 2)],
    )


def _office(layout: Layout, draw: Draw, style: Style) -> None:
    for _ in range(draw.integer(1, 2)):
        desk = layout.against_wall(furniture.table(draw, style, desk=True))
        if desk is None:
            continue
        layout.on_top(fixtures.tv(draw, style, monitor=True), kinds=("table",))
        thing = layout.things[desk]
        model = furniture.chair(draw, style)
        out = thing.half_z + model.half_z + 0.04
        x = thing.position[0] + math.sin(thing.yaw) * out
        z = thing.position[2] + math.cos(thing.yaw) * out
        chair = layout.at(model, x, z, thing.yaw + math.pi + draw.uniform(-0.4, 0.4), margin_m=0.0)
        if chair is not None and draw.chance(0.25):
            _sit(layout, draw, style, chair)
    _wall_things(
        layout,
        draw,
        style,
        draw.shuffled((furniture.shelf, furniture.shelf, furniture.cabinet, furniture.plant))[:2],
    )


def _bathroom(layout: Layout, draw: Draw, style: Style) -> None:
    makers = draw.shuffled((fixtures.sink, fixtures.toilet, fixtures.bathtub))
    _wall_things(layout, draw, style, makers)
    if draw.chance(0.4):
        layout.against_wall(furniture.cabinet(draw, style))


def _classroom(layout: Layout, draw: Draw, style: Style) -> None:
    like = draw.uniform(0, 1e6)
    for row in range(2):
        for column in (-1, 0, 1):
            table = furniture.table(_again(layout, draw, like), style, desk=True)
            x = column * (2 * table.half_x + 0.55)
            z = layout.half_size[2] * (0.0 + 0.5 * row) - 0.2
            placed = layout.at(table, x, z, 0.0)
            if placed is not None:
                model = furniture.chair(_again(layout, draw, like + 1), style)
                chair = layout.at(model, x, z - table.half_z - model.half_z - 0.03, 0.0, 0.0)
                if chair is not None and draw.chance(0.2):
                    _sit(layout, draw, style, chair)
    _wall_things(layout, draw, style, [draw.choice((furniture.shelf, furniture.cabinet))])


def _playroom(layout: Layout, draw: Draw, style: Style) -> None:
    _wall_things(
        layout, draw, style, draw.shuffled((furniture.shelf, furniture.cabinet, furniture.bed))[:1]
    )
    if draw.chance(0.5):
        layout.anywhere(furniture.table(draw, style, low=True), _facing(draw, layout))
    for _ in range(draw.integer(3, 6)):
        kind = draw.choice(("box", "sphere", "cylinder", "cone"))
        model = fixtures.solid(draw, style, kind, draw.uniform(0.25, 0.6))
        layout.anywhere(model, lambda: draw.uniform(0, 6.28))


ROOMS: dict[str, Kind] = {
    "bathroom": Kind(
        ("white", "turquoise", "blue", "pink", "grey", "green"),
        ("tiles", "tiles", "checker"),
        ("white", "turquoise", "blue", "grey"),
        0.85,
        0.1,
        _bathroom,
    ),
    "bedroom": Kind(
        ("blue", "pink", "purple", "white", "grey", "turquoise", "green"),
        ("planks", "carpet"),
        ("white", "blue", "pink", "yellow", "grey", "purple"),
        0.0,
        0.7,
        _bedroom,
    ),
    "classroom": Kind(
        ("green", "blue", "orange", "yellow", "grey"),
        ("planks", "tiles", "carpet"),
        ("white", "yellow", "green"),
        0.0,
        0.2,
        _classroom,
    ),
    "dining room": Kind(
        ("brown", "red", "white", "green", "orange"),
        ("planks", "planks", "tiles"),
        ("white", "yellow", "orange", "red", "green"),
        0.0,
        0.6,
        _dining,
    ),
    "kitchen": Kind(
        ("white", "red", "green", "yellow", "blue", "grey", "black"),
        ("tiles", "checker", "planks"),
        ("white", "yellow", "green", "orange"),
        0.4,
        0.2,
        _kitchen,
    ),
    "living room": Kind(
        ("red", "brown", "grey", "blue", "green", "orange", "turquoise"),
        ("planks", "planks", "carpet"),
        ("white", "grey", "yellow", "turquoise", "brown"),
        0.0,
        0.6,
        _living,
    ),
    "office": Kind(
        ("black", "grey", "blue", "white", "red"),
        ("carpet", "planks", "tiles"),
        ("white", "grey", "blue"),
        0.0,
        0.2,
        _office,
    ),
    "playroom": Kind(
        ("red", "yellow", "blue", "green", "orange", "purple", "pink"),
        ("carpet", "planks", "checker"),
        ("white", "yellow", "turquoise", "pink", "orange"),
        0.0,
        0.4,
        _playroom,
    ),
}
ROOM_TYPES = tuple(ROOMS)


def sample_scene(split: str, seed: int, index: int) -> Scene:
    """The scene of this name: a function of its arguments and the renderer's version."""
    room_type = Draw(split, seed, index, "type").choice(ROOM_TYPES)
    kind = ROOMS[room_type]
    draw = Draw(split, seed, index, "room")
    half_size = _room_size(draw, room_type)
    style = Style.draw(draw, kind.palette)
    view = _camera(Draw(split, seed, index, "camera"), half_size)
    layout = Layout(Draw(split, seed, index, "layout"), half_size, view)
    floor = building.floor_material(draw, draw.choice(kind.floors))
    wall = building.wall_materials(draw, kind.wall_colours, draw.chance(kind.tiled))
    for model in building.shell(half_size, floor, wall, plain((0.93, 0.93, 0.92))):
        layout.add(model, (0.0, 0.0, 0.0), 0.0)
    windows = _openings(layout, Draw(split, seed, index, "openings"), style, kind)
    draw = Draw(split, seed, index, "furniture")
    kind.furnish(layout, draw, style)
    _extras(layout, draw, style, room_type)
    lights, ambient, sky = _light(Draw(split, seed, index, "light"), layout, windows)
    noise = Draw(split, seed, index, "sensor").uniform(0.004, 0.014)
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
    """Half width, half height and half depth in metres."""
    low, high = {"bathroom": (2.5, 4.2), "bedroom": (3.0, 5.2), "kitchen": (2.8, 5.2)}.get(
        room_type, (3.4, 7.0)
    )
    return draw.uniform(low, high) / 2, draw.uniform(2.3, 3.2) / 2, draw.uniform(low, high) / 2


def _camera(draw: Draw, half_size: Vector) -> View:
    """A camera near the -z wall that looks into the room."""
    x, _, z = half_size
    position = point(
        draw.uniform(-1, 1) * (x - 0.45),
        draw.uniform(1.0, 1.9),
        -z + draw.uniform(0.35, 0.35 + 0.3 * z),
    )
    target = point(
        draw.uniform(-0.55, 0.55) * x, draw.uniform(0.3, 1.15), draw.uniform(0.0, 0.7) * z
    )
    way = target - position
    yaw = math.atan2(way[0], way[2])
    drop = math.atan2(-way[1], math.hypot(way[0], way[2]))
    pitch = min(max(drop + draw.uniform(-0.06, 0.06), -0.08), 0.5)
    roll = draw.uniform(-0.035, 0.035)
    sp, cp = round(math.sin(pitch), 12), round(math.cos(pitch), 12)
    sr, cr = round(math.sin(roll), 12), round(math.cos(roll), 12)
    # columns right, down, forward of a camera that looks along +z with its top towards +y
    level = np.array([[1.0, 0.0, 0.0], [0.0, -cp, -sp], [0.0, -sp, cp]])
    rolled = compose(level, np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]]))
    return View(position, compose(rotation_y(yaw), rolled), math.radians(draw.uniform(50, 80)))


def _openings(
    layout: Layout, draw: Draw, style: Style, kind: Kind
) -> list[tuple[int, float, float, float, float]]:
    """Doors, windows and pictures; returns (wall, offset, half width, low, high) of the windows."""
    windows = []
    height = 2 * layout.half_size[1]
    for number in draw.shuffled((0, 1, 2))[: draw.integer(0, 2) + 1]:
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


def _extras(layout: Layout, draw: Draw, style: Style, room_type: str) -> None:
    """Small things on furniture, a rug, plain solids and people."""
    carriers = ("table", "cabinet", "shelf", "box", "cylinder", "bed")
    if room_type not in ("bathroom", "kitchen") and draw.chance(0.5):
        _lay_rug(layout, draw, style)
    if draw.chance(0.45):
        layout.anywhere(person(draw, style), lambda: draw.uniform(0, 6.28))
    for _ in range(draw.integer(0, 2)):
        kind = draw.choice(("box", "sphere", "cylinder", "cone"))
        size = draw.uniform(0.25, 0.55)
        layout.anywhere(fixtures.solid(draw, style, kind, size), lambda: draw.uniform(0, 6.28))
    for _ in range(draw.integer(1, 5)):
        layout.on_top(_small(draw, style), kinds=carriers)
    if draw.chance(0.6):
        layout.on_top(fixtures.cushion(draw, style), kinds=("sofa",))


def _small(draw: Draw, style: Style) -> Model:
    number = draw.integer(0, 7)
    if number < 4:
        kind = ("box", "sphere", "cylinder", "cone")[number]
        return fixtures.solid(draw, style, kind, draw.uniform(0.12, 0.24))
    if number == 4:
        return furniture.plant(draw, style, small=True)
    if number == 5:
        return furniture.table_lamp(draw, style)
    return (fixtures.vase, fixtures.books)[number - 6](draw, style)


def _lay_rug(layout: Layout, draw: Draw, style: Style) -> None:
    """A rug under the middle of the view; furniture may stand on it."""
    model = building.rug(draw, style)
    reach_x, reach_z = (layout.half_size[i] - model.half_x - 0.05 for i in (0, 2))
    if min(reach_x, reach_z) > 0:
        spot = (draw.uniform(-0.5, 0.5) * reach_x, 0.0, draw.uniform(0, 1) * reach_z)
        layout.add(model, spot, 0.0)


def _light(
    draw: Draw, layout: Layout, windows: list[tuple[int, float, float, float, float]]
) -> tuple[tuple[Light, ...], Vector, tuple[Vector, Vector, Vector]]:
    """A ceiling lamp, sometimes the sun or a second lamp; the light from everywhere; the sky."""
    x, half_y, z = layout.half_size
    height = 2 * half_y
    place = (draw.uniform(-0.4, 0.4) * x, height, draw.uniform(-0.3, 0.4) * z)
    layout.add(building.ceiling_lamp(draw, height), place, 0.0)
    warm = draw.uniform(0, 1)
    colour = (1.0, 0.93 - 0.1 * warm, 0.86 - 0.28 * warm)
    day = draw.uniform(0.25, 1.0) if draw.chance(0.85) else 0.02
    lamp = draw.uniform(0.55, 0.95) * (1.0 if not windows else 1.1 - 0.4 * day)
    lights = [_lamp(draw, point(place[0], height - 0.35, place[2]), colour, lamp, 0.5 * (x + z))]
    sunny = draw.chance(0.7)
    if windows and day > 0.4 and sunny:
        lights.append(_sun(draw, layout, windows[0], day))
    elif draw.chance(0.4):
        spot = point(
            draw.uniform(-0.8, 0.8) * x,
            draw.uniform(1.2, height - 0.3),
            draw.uniform(-0.8, 0.9) * z,
        )
        lights.append(_lamp(draw, spot, (1.0, 0.9, 0.75), draw.uniform(0.2, 0.45), 0.4 * (x + z)))
    fill = draw.uniform(0.16, 0.30) + (0.12 * day if windows else 0.04)
    cool = 0.04 * day if windows else 0.0
    ambient = (fill * (1 - cool), fill, fill * (1 + cool * 2))
    haze = draw.uniform(0, 1)
    horizon = ((0.80 + 0.15 * haze) * day, (0.85 + 0.05 * haze) * day, 0.95 * day)
    zenith = (0.25 * day, 0.45 * day, (0.85 - 0.2 * haze) * day)
    ground = (0.16 * day, (0.22 + 0.1 * haze) * day, 0.10 * day)
    return tuple(lights), ambient, (horizon, zenith, ground)


_CORNERS = np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]], dtype=np.float64)


def _lamp(draw: Draw, centre: np.ndarray, colour: Vector, power: float, reach_m: float) -> Light:
    points = centre[:, None] + _CORNERS * draw.uniform(0.04, 0.09)
    r, g, b = (c * power for c in colour)
    return Light(points, (r, g, b), reach_m)


def _sun(
    draw: Draw, layout: Layout, window: tuple[int, float, float, float, float], day: float
) -> Light:
    """Light from far outside that only enters through one window."""
    number, offset, half_x, low, high = window
    wall = walls(layout.half_size)[number]
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
