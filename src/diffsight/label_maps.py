"""Class names of well-known data sets, in the order of their ids."""

from collections.abc import Sequence

from diffsight.types import InputError

_ADE20K = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, "
    "person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, "
    "shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, "
    "bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, "
    "sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool "
    "table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, "
    "flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, "
    "boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, "
    "streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, "
    "escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, "
    "canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, "
    "lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, "
    "ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, "
    "clock, flag"
)
ADE20K_CLASSES = tuple(_ADE20K.split(", "))
"""The first word of every class, in the order of the challenge; its annotations count from 1."""

_NYU = (
    "printer_room, bathroom, living_room, study, conference_room, study_room, kitchen, "
    "home_office, bedroom, dinette, playroom, indoor_balcony, laundry_room, basement, "
    "excercise_room, foyer, home_storage, cafe, furniture_store, office_kitchen, student_lounge, "
    "dining_room, reception_room, computer_lab, classroom, office, bookstore"
)
NYU_SCENES = tuple(_NYU.split(", "))
"""Scene types of NYU Depth v2 in the order of VPD's text table, with its spelling."""

_BY_NAME = {"ade20k": ADE20K_CLASSES, "nyu_scenes": NYU_SCENES}


def class_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names themselves, or those of the list that is called ``ade20k`` or ``nyu_scenes``.

    Raises:
        InputError: if no list is called so.
    """
    if not isinstance(names, str):
        return tuple(names)
    if names not in _BY_NAME:
        known = ", ".join(_BY_NAME)
        raise InputError(f"no list of class names is called {names!r}: give the names, or {known}")
    return _BY_NAME[names]
