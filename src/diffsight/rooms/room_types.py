"""The types of rooms, and the furniture that is typical of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from diffsight.ops.draw import Draw
from diffsight.rooms import building, fixtures, furniture
from diffsight.rooms.building import before, walls
from diffsight.rooms.draw import stream
from diffsight.rooms.layout import Layout
from diffsight.rooms.models import Model, Style
from diffsight.rooms.person import person

Furnish = Callable[[Layout, Draw, Style], None]


@dataclass(frozen=True)
class Kind:
    """What sets one type of room apart.

    Attributes:
        palette: colour words of furniture.
        floors: kinds of floor, see ``building.floor_finish``.
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


def _facing(draw: Draw) -> Callable[[], float]:
    """Return yaws of free-standing things: mostly square to the room, sometimes not."""
    quarter = math.pi / 2
    return lambda: (
        quarter * draw.integer(0, 3) + (draw.uniform(-0.5, 0.5) if draw.chance(0.4) else 0.0)
    )


def _chairs(layout: Layout, draw: Draw, style: Style, index: int, count: int) -> None:
    """Add chairs around a table, pushed in a little, facing it."""
    table = layout.things[index]
    like = draw.uniform(0, 1e6)
    for side in draw.shuffled((0, 1, 2, 3))[:count]:
        model = furniture.chair(_again(layout, like), style)
        yaw = table.yaw + side * math.pi / 2
        out = (table.half_z, table.half_x)[side % 2] + model.half_z + 0.03
        s, c = math.sin(yaw), math.cos(yaw)
        x, z = table.position[0] + s * out, table.position[2] + c * out
        chair = layout.at(model, x, z, yaw + math.pi + draw.uniform(-0.12, 0.12), margin_m=0.0)
        if chair is not None and draw.chance(0.15):
            _sit(layout, draw, style, chair)


def _again(layout: Layout, like: float) -> Draw:
    """Return the same stream every time, so that the chairs of a set are alike."""
    return stream("chairs", layout.draw_seed, int(like), "model")


def _sit(layout: Layout, draw: Draw, style: Style, chair: int) -> None:
    seat = layout.things[chair]
    model = person(draw, style, seat_m=furniture.SEAT_M)
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
        layout.anywhere(furniture.sofa(draw, style), _facing(draw))
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
        layout.anywhere(furniture.chair(draw, style), _facing(draw))
    layout.on_top(furniture.table_lamp(draw, style), kinds=("cabinet",))


def _kitchen(layout: Layout, draw: Draw, style: Style) -> None:
    units = [fixtures.refrigerator(draw, style), fixtures.oven(draw, style)]
    units += [furniture.cabinet(draw, style, counter=True) for _ in range(draw.integer(1, 3))]
    _row(layout, draw, draw.shuffled(units))
    if draw.chance(0.8):
        table = layout.anywhere(furniture.table(draw, style), _facing(draw))
        if table is not None:
            _chairs(layout, draw, style, table, draw.integer(1, 4))


def _row(layout: Layout, draw: Draw, models: list[Model]) -> None:
    """Add units side by side along one wall."""
    width = sum(2 * m.half_x for m in models) + 0.02 * len(models)
    for number in draw.shuffled((0, 0, 1, 2)):
        wall = walls(layout.half_size)[number]
        if width > 2 * wall.half_length - 0.2:
            continue
        free = wall.half_length - width / 2 - 0.06
        s = draw.uniform(-free, free) - width / 2
        gap = layout.gap(number, s + width / 2, width / 2)
        placed = 0
        for model in models:
            centre = s + model.half_x
            x, z = before(wall, centre, model.half_z + gap)
            placed += layout.at(model, x, z, wall.yaw, margin_m=0.0) is not None
            s += 2 * model.half_x + 0.02
        if placed:
            return
    for model in models:
        layout.against_wall(model)


def _dining(layout: Layout, draw: Draw, style: Style) -> None:
    table = layout.anywhere(furniture.table(draw, style), _facing(draw))
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
    ahead = draw.choice((-1, 1))  # which way the class looks
    for row in range(2):
        for column in (-1, 0, 1):
            table = furniture.table(_again(layout, like), style, desk=True)
            model = furniture.chair(_again(layout, like + 1), style)
            x = column * (2 * table.half_x + 0.55)
            z = layout.half_size[2] * 0.5 * row - 0.1
            yaw = 0.0 if ahead > 0 else math.pi
            if layout.at(table, x, z, yaw) is not None:
                behind = z - ahead * (table.half_z + model.half_z + 0.03)
                chair = layout.at(model, x, behind, yaw, margin_m=0.0)
                if chair is not None and draw.chance(0.2):
                    _sit(layout, draw, style, chair)
    _wall_things(layout, draw, style, [draw.choice((furniture.shelf, furniture.cabinet))])


def _playroom(layout: Layout, draw: Draw, style: Style) -> None:
    _wall_things(
        layout, draw, style, draw.shuffled((furniture.shelf, furniture.cabinet, furniture.bed))[:1]
    )
    if draw.chance(0.5):
        layout.anywhere(furniture.table(draw, style, low=True), _facing(draw))
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


def add_extras(layout: Layout, draw: Draw, style: Style, room_type: str) -> None:
    """Add furniture to large rooms, a rug, people, plain solids and small things."""
    carriers = ("table", "cabinet", "shelf", "box", "cylinder", "bed")
    if room_type not in ("bathroom", "kitchen") and draw.chance(0.5):
        _lay_rug(layout, draw, style)
    if draw.chance(0.45):
        layout.anywhere(person(draw, style), lambda: draw.uniform(0, 6.28))
    floor_m2 = 4 * layout.half_size[0] * layout.half_size[2]
    if room_type != "bathroom":
        fillers = (furniture.shelf, furniture.cabinet, furniture.plant, furniture.floor_lamp)
        _wall_things(layout, draw, style, draw.shuffled(fillers)[: int(floor_m2 / 14)])
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
    """Lay a rug under the middle of the view; furniture may stand on it."""
    model = building.rug(draw, style)
    reach_x, reach_z = (layout.half_size[i] - model.half_x - 0.05 for i in (0, 2))
    if min(reach_x, reach_z) > 0:
        spot = (draw.uniform(-0.5, 0.5) * reach_x, 0.0, draw.uniform(0, 1) * reach_z)
        layout.add(model, spot, 0.0)
