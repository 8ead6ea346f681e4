"""The types of rooms and their typical furniture."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from diffsight.ops.draw import Draw
from diffsight.rooms import building, fixtures, furniture
from diffsight.rooms.building import make_walls, offset_from_wall
from diffsight.rooms.draw import stream
from diffsight.rooms.layout import Layout
from diffsight.rooms.models import Model, Style
from diffsight.rooms.person import make_person

Furnish = Callable[[Layout, Draw, Style], None]


@dataclass(frozen=True)
class RoomType:
    """The typical colours, surfaces and furniture of one type of room.

    Attributes:
        palette: colour words of the furniture.
        floors: kinds of floor, see ``building.make_floor_finish``.
        wall_colours: colour words of the walls, which are mixed with white.
        tiled_probability: probability of tiles on the lower part of the walls.
        curtain_probability: probability of curtains at a window.
        furnish: function that adds the typical furniture, the most typical first.
    """

    palette: tuple[str, ...]
    floors: tuple[str, ...]
    wall_colours: tuple[str, ...]
    tiled_probability: float
    curtain_probability: float
    furnish: Furnish


def _make_yaw_sampler(draw: Draw) -> Callable[[], float]:
    """Return a function that draws yaws of free-standing things, mostly parallel to the walls."""
    quarter = math.pi / 2
    return lambda: (
        quarter * draw.integer(0, 3) + (draw.uniform(-0.5, 0.5) if draw.chance(0.4) else 0.0)
    )


def _add_chairs(layout: Layout, draw: Draw, style: Style, index: int, count: int) -> None:
    """Add at most ``count`` chairs around the table with this index, facing it."""
    table = layout.things[index]
    set_key = draw.uniform(0, 1e6)
    for side in draw.shuffled((0, 1, 2, 3))[:count]:
        model = furniture.make_chair(_repeat_stream(layout, set_key), style)
        yaw = table.yaw + side * math.pi / 2
        out = (table.half_z, table.half_x)[side % 2] + model.half_z + 0.03
        s, c = math.sin(yaw), math.cos(yaw)
        x, z = table.position[0] + s * out, table.position[2] + c * out
        chair = layout.put_at(model, x, z, yaw + math.pi + draw.uniform(-0.12, 0.12), margin_m=0.0)
        if chair is not None and draw.chance(0.15):
            _seat_person(layout, draw, style, chair)


def _repeat_stream(layout: Layout, set_key: float) -> Draw:
    """Return the random numbers of a set of chairs from the start, so that its chairs are alike."""
    return stream("chairs", layout.draw_seed, int(set_key), "model")


def _seat_person(layout: Layout, draw: Draw, style: Style, chair: int) -> None:
    """Add a person who sits on the chair with this index."""
    seat = layout.things[chair]
    model = make_person(draw, style, seat_m=furniture.SEAT_M)
    back = 0.06
    x = seat.position[0] - math.sin(seat.yaw) * back
    z = seat.position[2] - math.cos(seat.yaw) * back
    layout.add(model, (x, 0.0, z), seat.yaw, chair)


def _add_along_walls(layout: Layout, draw: Draw, style: Style, makers: list) -> None:
    for maker in makers:
        layout.put_against_wall(maker(draw, style))


def _furnish_living_room(layout: Layout, draw: Draw, style: Style) -> None:
    sofa = layout.put_against_wall(furniture.make_sofa(draw, style))
    if sofa is not None and draw.chance(0.75):
        _add_coffee_table(layout, draw, style, sofa)
    _add_along_walls(
        layout,
        draw,
        style,
        draw.shuffled((furniture.make_shelf, furniture.make_cabinet, furniture.make_plant))[:2],
    )
    if draw.chance(0.5):
        layout.put_against_wall(furniture.make_floor_lamp(draw, style))
    if draw.chance(0.4):
        layout.put_anywhere(furniture.make_sofa(draw, style), _make_yaw_sampler(draw))
    layout.put_on_top(fixtures.make_tv(draw, style), kinds=("cabinet",))


def _add_coffee_table(layout: Layout, draw: Draw, style: Style, sofa: int) -> None:
    seat = layout.things[sofa]
    model = furniture.make_table(draw, style, low=True)
    out = seat.half_z + model.half_z + draw.uniform(0.25, 0.5)
    x, z = seat.position[0] + math.sin(seat.yaw) * out, seat.position[2] + math.cos(seat.yaw) * out
    layout.put_at(model, x, z, seat.yaw)


def _furnish_bedroom(layout: Layout, draw: Draw, style: Style) -> None:
    bed = layout.put_against_wall(furniture.make_bed(draw, style))
    if bed is not None:
        thing = layout.things[bed]
        for side in (-1, 1):
            if draw.chance(0.6):
                model = furniture.make_bedside_cabinet(draw, style)
                s, c = math.sin(thing.yaw), math.cos(thing.yaw)
                out = side * (thing.half_x + model.half_x + 0.06)
                back = -thing.half_z + model.half_z
                x = thing.position[0] + c * out + s * back
                z = thing.position[2] - s * out + c * back
                layout.put_at(model, x, z, thing.yaw)
    _add_along_walls(
        layout,
        draw,
        style,
        draw.shuffled((furniture.make_cabinet, furniture.make_shelf, furniture.make_plant))[:1],
    )
    if draw.chance(0.4):
        layout.put_anywhere(furniture.make_chair(draw, style), _make_yaw_sampler(draw))
    layout.put_on_top(furniture.make_table_lamp(draw, style), kinds=("cabinet",))


def _furnish_kitchen(layout: Layout, draw: Draw, style: Style) -> None:
    units = [fixtures.make_refrigerator(draw, style), fixtures.make_oven(draw, style)]
    units += [furniture.make_cabinet(draw, style, counter=True) for _ in range(draw.integer(1, 3))]
    _add_row(layout, draw, draw.shuffled(units))
    if draw.chance(0.8):
        table = layout.put_anywhere(furniture.make_table(draw, style), _make_yaw_sampler(draw))
        if table is not None:
            _add_chairs(layout, draw, style, table, draw.integer(1, 4))


def _add_row(layout: Layout, draw: Draw, models: list[Model]) -> None:
    """Add models side by side along one wall, or each at any wall if no wall is long enough."""
    width = sum(2 * m.half_x for m in models) + 0.02 * len(models)
    for number in draw.shuffled((0, 0, 1, 2)):
        wall = make_walls(layout.half_size)[number]
        if width > 2 * wall.half_length - 0.2:
            continue
        free = wall.half_length - width / 2 - 0.06
        s = draw.uniform(-free, free) - width / 2
        gap = layout.choose_wall_gap(number, s + width / 2, width / 2)
        placed = 0
        for model in models:
            centre = s + model.half_x
            x, z = offset_from_wall(wall, centre, model.half_z + gap)
            placed += layout.put_at(model, x, z, wall.yaw, margin_m=0.0) is not None
            s += 2 * model.half_x + 0.02
        if placed:
            return
    for model in models:
        layout.put_against_wall(model)


def _furnish_dining_room(layout: Layout, draw: Draw, style: Style) -> None:
    table = layout.put_anywhere(furniture.make_table(draw, style), _make_yaw_sampler(draw))
    if table is not None:
        _add_chairs(layout, draw, style, table, draw.integer(2, 4))
        layout.put_on_top(fixtures.make_vase(draw, style), kinds=("table",))
    _add_along_walls(
        layout,
        draw,
        style,
        draw.shuffled((furniture.make_cabinet, furniture.make_shelf, furniture.make_plant))[
            : draw.integer(1, 2)
        ],
    )


def _furnish_office(layout: Layout, draw: Draw, style: Style) -> None:
    for _ in range(draw.integer(1, 2)):
        desk = layout.put_against_wall(furniture.make_table(draw, style, desk=True))
        if desk is None:
            continue
        layout.put_on_top(fixtures.make_tv(draw, style, monitor=True), kinds=("table",))
        thing = layout.things[desk]
        model = furniture.make_chair(draw, style)
        out = thing.half_z + model.half_z + 0.04
        x = thing.position[0] + math.sin(thing.yaw) * out
        z = thing.position[2] + math.cos(thing.yaw) * out
        chair = layout.put_at(
            model, x, z, thing.yaw + math.pi + draw.uniform(-0.4, 0.4), margin_m=0.0
        )
        if chair is not None and draw.chance(0.25):
            _seat_person(layout, draw, style, chair)
    _add_along_walls(
        layout,
        draw,
        style,
        draw.shuffled(
            (
                furniture.make_shelf,
                furniture.make_shelf,
                furniture.make_cabinet,
                furniture.make_plant,
            )
        )[:2],
    )


def _furnish_bathroom(layout: Layout, draw: Draw, style: Style) -> None:
    makers = draw.shuffled((fixtures.make_sink, fixtures.make_toilet, fixtures.make_bathtub))
    _add_along_walls(layout, draw, style, makers)
    if draw.chance(0.4):
        layout.put_against_wall(furniture.make_cabinet(draw, style))


def _furnish_classroom(layout: Layout, draw: Draw, style: Style) -> None:
    set_key = draw.uniform(0, 1e6)
    ahead = draw.choice((-1, 1))  # direction along z in which the class looks
    for row in range(2):
        for column in (-1, 0, 1):
            table = furniture.make_table(_repeat_stream(layout, set_key), style, desk=True)
            model = furniture.make_chair(_repeat_stream(layout, set_key + 1), style)
            x = column * (2 * table.half_x + 0.55)
            z = layout.half_size[2] * 0.5 * row - 0.1
            yaw = 0.0 if ahead > 0 else math.pi
            if layout.put_at(table, x, z, yaw) is not None:
                behind = z - ahead * (table.half_z + model.half_z + 0.03)
                chair = layout.put_at(model, x, behind, yaw, margin_m=0.0)
                if chair is not None and draw.chance(0.2):
                    _seat_person(layout, draw, style, chair)
    _add_along_walls(
        layout, draw, style, [draw.choice((furniture.make_shelf, furniture.make_cabinet))]
    )


def _furnish_playroom(layout: Layout, draw: Draw, style: Style) -> None:
    _add_along_walls(
        layout,
        draw,
        style,
        draw.shuffled((furniture.make_shelf, furniture.make_cabinet, furniture.make_bed))[:1],
    )
    if draw.chance(0.5):
        layout.put_anywhere(furniture.make_table(draw, style, low=True), _make_yaw_sampler(draw))
    for _ in range(draw.integer(3, 6)):
        kind = draw.choice(("box", "sphere", "cylinder", "cone"))
        model = fixtures.make_solid(draw, style, kind, draw.uniform(0.25, 0.6))
        layout.put_anywhere(model, lambda: draw.uniform(0, 6.28))


ROOMS: dict[str, RoomType] = {
    "bathroom": RoomType(
        ("white", "turquoise", "blue", "pink", "grey", "green"),
        ("tiles", "tiles", "checker"),
        ("white", "turquoise", "blue", "grey"),
        0.85,
        0.1,
        _furnish_bathroom,
    ),
    "bedroom": RoomType(
        ("blue", "pink", "purple", "white", "grey", "turquoise", "green"),
        ("planks", "carpet"),
        ("white", "blue", "pink", "yellow", "grey", "purple"),
        0.0,
        0.7,
        _furnish_bedroom,
    ),
    "classroom": RoomType(
        ("green", "blue", "orange", "yellow", "grey"),
        ("planks", "tiles", "carpet"),
        ("white", "yellow", "green"),
        0.0,
        0.2,
        _furnish_classroom,
    ),
    "dining room": RoomType(
        ("brown", "red", "white", "green", "orange"),
        ("planks", "planks", "tiles"),
        ("white", "yellow", "orange", "red", "green"),
        0.0,
        0.6,
        _furnish_dining_room,
    ),
    "kitchen": RoomType(
        ("white", "red", "green", "yellow", "blue", "grey", "black"),
        ("tiles", "checker", "planks"),
        ("white", "yellow", "green", "orange"),
        0.4,
        0.2,
        _furnish_kitchen,
    ),
    "living room": RoomType(
        ("red", "brown", "grey", "blue", "green", "orange", "turquoise"),
        ("planks", "planks", "carpet"),
        ("white", "grey", "yellow", "turquoise", "brown"),
        0.0,
        0.6,
        _furnish_living_room,
    ),
    "office": RoomType(
        ("black", "grey", "blue", "white", "red"),
        ("carpet", "planks", "tiles"),
        ("white", "grey", "blue"),
        0.0,
        0.2,
        _furnish_office,
    ),
    "playroom": RoomType(
        ("red", "yellow", "blue", "green", "orange", "purple", "pink"),
        ("carpet", "planks", "checker"),
        ("white", "yellow", "turquoise", "pink", "orange"),
        0.0,
        0.4,
        _furnish_playroom,
    ),
}
ROOM_TYPES = tuple(ROOMS)


def add_extras(layout: Layout, draw: Draw, style: Style, room_type: str) -> None:
    """Add a rug, a person, more furniture in large rooms, geometric solids and small things."""
    carriers = ("table", "cabinet", "shelf", "box", "cylinder", "bed")
    if room_type not in ("bathroom", "kitchen") and draw.chance(0.5):
        _lay_rug(layout, draw, style)
    if draw.chance(0.45):
        layout.put_anywhere(make_person(draw, style), lambda: draw.uniform(0, 6.28))
    floor_m2 = 4 * layout.half_size[0] * layout.half_size[2]
    if room_type != "bathroom":
        fillers = (
            furniture.make_shelf,
            furniture.make_cabinet,
            furniture.make_plant,
            furniture.make_floor_lamp,
        )
        _add_along_walls(layout, draw, style, draw.shuffled(fillers)[: int(floor_m2 / 14)])
    for _ in range(draw.integer(0, 2)):
        kind = draw.choice(("box", "sphere", "cylinder", "cone"))
        size = draw.uniform(0.25, 0.55)
        layout.put_anywhere(
            fixtures.make_solid(draw, style, kind, size), lambda: draw.uniform(0, 6.28)
        )
    for _ in range(draw.integer(1, 5)):
        layout.put_on_top(_make_small_object(draw, style), kinds=carriers)
    if draw.chance(0.6):
        layout.put_on_top(fixtures.make_cushion(draw, style), kinds=("sofa",))


def _make_small_object(draw: Draw, style: Style) -> Model:
    number = draw.integer(0, 7)
    if number < 4:
        kind = ("box", "sphere", "cylinder", "cone")[number]
        return fixtures.make_solid(draw, style, kind, draw.uniform(0.12, 0.24))
    if number == 4:
        return furniture.make_plant(draw, style, small=True)
    if number == 5:
        return furniture.make_table_lamp(draw, style)
    return (fixtures.make_vase, fixtures.make_books)[number - 6](draw, style)


def _lay_rug(layout: Layout, draw: Draw, style: Style) -> None:
    """Lay a rug near the middle of the view; furniture may stand on it."""
    model = building.make_rug(draw, style)
    reach_x, reach_z = (layout.half_size[i] - model.half_x - 0.05 for i in (0, 2))
    if min(reach_x, reach_z) > 0:
        spot = (draw.uniform(-0.5, 0.5) * reach_x, 0.0, draw.uniform(0, 1) * reach_z)
        layout.add(model, spot, 0.0)
