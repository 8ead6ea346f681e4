"""Class names, colours and joints of public data sets, in the order of their ids."""

import unicodedata
from collections.abc import Sequence

from diffsight.errors import InputError

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
"""First name of each class, in the order of the challenge, whose label files count from 1."""

_ADE20K_RGB = (
    "787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d "
    "787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 "
    "0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 "
    "ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 "
    "ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 "
    "00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 "
    "ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 "
    "000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 "
    "08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff "
    "9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 "
    "00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 "
    "005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff "
)
ADE20K_COLOURS = tuple(
    (code >> 16, code >> 8 & 255, code & 255)
    for code in (int(digits, 16) for digits in _ADE20K_RGB.split())
)
"""RGB of each class in mmsegmentation. Segmentation ControlNets were trained with these colours."""

_ADE20K_FULL = (
    "2978 312 2420 976 2855 447 2131 165 3055 1125 350 2377 1831 838 774+783 2684 1610 1910 687 "
    "471 401 2994 1735 2473 2329 1276 2264 1564 2178 913 57 2272 907 724 2138 533+2985 1395 155 "
    "2053 689 137 266 581 2380 491 627 2212 2388 2423 943 2096 1121 1788 2530 2185 420 1948 "
    "1869 2251 2531 2128 294 239 212 571 2793 978 236 1240 181 629 2598 1744 1374 591 2679 223 "
    "123 47 1282 327 2821 1451 2880 2828 480 77 2616 246+247 2733 14 738 38 1936 1401 120 868 "
    "1702 249 308 1969 2526 2928 2337 1023 609 389 2989 1930 2668 2586 131 146 3016 2739 95 "
    "1563 642 1708 103 1002 2569 2704 2833 1551 1981 29 187 1393 747 2254 206 2262 1260 2243 "
    "2932 2836 2850 64 894 1858 3109 1919 1583 318 2356 2046 1098 530 954"
)
ADE20K_FULL = tuple(tuple(map(int, row.split("+"))) for row in _ADE20K_FULL.split())
"""Class numbers in the full data set for each class of the challenge (``mapFromADE.txt``)."""

# class, id in the label files, category, colour
_CITYSCAPES = (
    "road 7 flat 804080, sidewalk 8 flat f423e8, building 11 construction 464646, wall 12 "
    "construction 66669c, fence 13 construction be9999, pole 17 object 999999, traffic_light 19 "
    "object faaa1e, traffic_sign 20 object dcdc00, vegetation 21 nature 6b8e23, terrain 22 nature "
    "98fb98, sky 23 sky 4682b4, person 24 human dc143c, rider 25 human ff0000, car 26 vehicle "
    "00008e, truck 27 vehicle 000046, bus 28 vehicle 003c64, train 31 vehicle 005064, motorcycle "
    "32 vehicle 0000e6, bicycle 33 vehicle 770b20"
)
_CITYSCAPES_ROWS = tuple(row.split() for row in _CITYSCAPES.split(", "))
NUSCENES_CLASSES = (
    *("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider"),
)
"""Map classes in the order of BEVFusion; ``divider`` combines road and lane dividers."""
CITYSCAPES_CLASSES = tuple(row[0].replace("_", " ") for row in _CITYSCAPES_ROWS)
"""Names of the 19 scored classes, in the order of ``labelTrainIds``."""
CITYSCAPES_IDS = tuple(int(row[1]) for row in _CITYSCAPES_ROWS)
"""Id of each class in ``labelIds``, which submissions to the benchmark use."""
CITYSCAPES_COLOURS = tuple(tuple(bytes.fromhex(row[3])) for row in _CITYSCAPES_ROWS)
"""RGB of each class."""
CITYSCAPES_CATEGORIES = tuple(
    tuple(i for i, row in enumerate(_CITYSCAPES_ROWS) if row[2] == name)
    for name in dict.fromkeys(row[2] for row in _CITYSCAPES_ROWS)
)
"""For each of the seven categories, the positions of its classes in ``CITYSCAPES_CLASSES``."""
MAPILLARY_TO_CITYSCAPES = (
    (13, 24, 41), (2, 15), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,), (27,), (19,),
    (20, 21, 22), (55,), (61,), (54,), (58,), (57,), (52,),
)  # fmt: skip
"""Class ids in Mapillary Vistas v1.2 for each class of Cityscapes, as in Meta Prompts."""

COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""Names of a person's joints, in the order of the annotations."""
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107,
    0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
"""Standard deviation of annotators for each joint, relative to the root of the person's area."""
COCO_LIMBS = (
    (0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (5, 11), (6, 12), (11, 12), (11, 13), (12, 14), (13, 15), (14, 16),
)  # fmt: skip
"""Pairs of joints between which a line is drawn."""

LEFT, RIGHT = "left_", "right_"
"""Prefixes of the names of joints that a mirror image exchanges."""

_NYU = (
    "printer_room, bathroom, living_room, study, conference_room, study_room, kitchen, "
    "home_office, bedroom, dinette, playroom, indoor_balcony, laundry_room, basement, "
    "excercise_room, foyer, home_storage, cafe, furniture_store, office_kitchen, student_lounge, "
    "dining_room, reception_room, computer_lab, classroom, office, bookstore"
)
NYU_SCENES = tuple(_NYU.split(", "))
"""Scene types of NYU Depth v2 in the order and spelling of VPD's text table."""

_BY_NAME = {
    "ade20k": ADE20K_CLASSES,
    "cityscapes": CITYSCAPES_CLASSES,
    "nyu_scenes": NYU_SCENES,
}


def clean_name(name: str) -> str:
    """Return a name without control characters, which would affect a terminal."""
    return "".join(c for c in name if unicodedata.category(c) != "Cc")


def resolve_class_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the given class names, or those of a known data set.

    Args:
        names: class names, or the name of a list: ``ade20k``, ``cityscapes`` or ``nyu_scenes``.

    Raises:
        InputError: if there is no list with this name.
    """
    if not isinstance(names, str):
        return tuple(map(clean_name, names))
    if names not in _BY_NAME:
        available = ", ".join(_BY_NAME)
        raise InputError(
            f"no list of class names is called {names!r}: give the names, or one of {available}"
        )
    return _BY_NAME[names]


def compute_mirror_order(names: Sequence[str]) -> list[int]:
    """Return the order of the joints in a mirrored image.

    Entry i is the index of the joint on the other side of joint i (``left_eye``: ``right_eye``), or
    i itself if there is no such joint.

    Args:
        names: names of the joints.
    """
    positions = {name: i for i, name in enumerate(names)}
    opposite = {LEFT: RIGHT, RIGHT: LEFT}
    order = []
    for name in names:
        side = get_side_prefix(name)
        other = opposite[side] + name.removeprefix(side) if side else name
        order.append(positions.get(other, positions[name]))
    return order


def get_side_prefix(*names: str) -> str:
    """Return the prefix ``left_`` or ``right_`` that all joint names share, or an empty string."""
    for side in (LEFT, RIGHT):
        if all(name.startswith(side) for name in names):
            return side
    return ""
