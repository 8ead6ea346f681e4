"""Models of people: figures of capsules and ellipsoids with the 17 COCO keypoints."""

import math

import numpy as np

from diffsight.label_maps import COCO_KEYPOINTS
from diffsight.ops.draw import Draw
from diffsight.rooms.materials import LOOKS, make_material, make_plain
from diffsight.rooms.models import Model, Style
from diffsight.rooms.world import (
    Material,
    Pattern,
    Vector,
    align_y,
    cross,
    point,
    rotate,
    rotation_y,
)

# thickness of the flesh over each keypoint in metres, from nose to ankles: a little more than the
# radius of the limbs that meet there. A keypoint is visible if nothing else covers its flesh.
_FLESH = (
    *(0.035,) * 3,
    *(0.04,) * 2,
    *(0.1,) * 2,
    *(0.08,) * 4,
    *(0.15,) * 2,
    *(0.1,) * 2,
    *(0.09,) * 2,
)
SKINS = (
    (0.94, 0.78, 0.66),
    (0.86, 0.66, 0.52),
    (0.72, 0.52, 0.38),
    (0.52, 0.36, 0.26),
    (0.36, 0.25, 0.18),
)
HAIRS = (
    (0.10, 0.08, 0.07),
    (0.28, 0.18, 0.11),
    (0.55, 0.38, 0.20),
    (0.78, 0.64, 0.38),
    (0.6, 0.6, 0.6),
)

SHIRTS = (
    "red",
    "orange",
    "yellow",
    "green",
    "turquoise",
    "blue",
    "purple",
    "pink",
    "white",
    "grey",
)
TROUSERS = ("blue", "black", "brown", "grey", "green", "white")


def _swing(pitch: float, outward: float, side: float) -> np.ndarray:
    """Return the unit vector along a hanging limb after two rotations.

    Args:
        pitch: rotation forwards (+z) in radians.
        outward: rotation away from the body in radians.
        side: 1 for the left side of the person, -1 for the right.
    """
    s, c = round(math.sin(pitch), 12), round(math.cos(pitch), 12)
    so, co = round(math.sin(outward), 12), round(math.cos(outward), 12)
    return point(side * so, -co * c, co * s)


def _draw_pose(draw: Draw, seated: bool) -> dict[str, float]:
    """Return random joint angles in radians by name; ``_l`` is the left of the person."""
    pose: dict[str, float] = {"lean": draw.uniform(-0.04, 0.12)}
    stride = draw.uniform(-0.45, 0.45) if draw.chance(0.5) else draw.uniform(-0.08, 0.08)
    for name, sign in (("l", 1.0), ("r", -1.0)):
        pose[f"thigh_{name}"] = draw.uniform(1.42, 1.5) if seated else sign * stride
        bend = (
            draw.uniform(0.0, 0.15)
            if sign * stride > 0
            else draw.uniform(0.1, 0.5) * abs(stride) * 2
        )
        pose[f"knee_{name}"] = draw.uniform(1.35, 1.55) if seated else bend
        raised = draw.chance(0.25)
        pose[f"arm_{name}"] = (
            draw.uniform(0.9, 2.8) if raised else -sign * stride * 0.9 + draw.uniform(-0.1, 0.3)
        )
        pose[f"out_{name}"] = draw.uniform(0.08, 0.6 if raised else 0.3)
        pose[f"elbow_{name}"] = (
            draw.uniform(0.2, 1.6) if raised or seated else draw.uniform(0.05, 0.7)
        )
    return pose


def make_person(draw: Draw, style: Style, seat_m: float | None = None) -> Model:
    """Return a person who stands or walks, or who sits on a seat of height ``seat_m``.

    The hips are above the origin.
    """
    size = draw.uniform(0.88, 1.08)
    joints = _compute_joints(
        _draw_pose(draw, seat_m is not None), size, seat_m, draw.uniform(-0.7, 0.7)
    )
    colour = draw.choice(SHIRTS)
    pattern: Pattern = draw.choice(("solid", "solid", "stripes"))
    clothes = {
        "shirt": make_material(draw, colour, pattern, scale_m=0.12, gloss=0.0),
        "trousers": make_material(draw, draw.choice(TROUSERS), gloss=0.0),
        "skin": make_plain(draw.choice(SKINS)),
        "hair": make_plain(draw.choice(HAIRS)),
        "shoes": make_material(draw, draw.choice(("black", "brown", "white", "red"))),
        "eyes": make_plain((0.08, 0.07, 0.07)),
    }
    model = Model("person", colour, LOOKS[pattern], height=float(joints["head"][1]) + 0.13 * size)
    _dress(model, joints, clothes, size, short_sleeves=draw.chance(0.5))
    positions = np.stack([joints[name] for name in COCO_KEYPOINTS])
    model.joints = (positions, np.array(_FLESH) * size)
    reach = np.abs(positions[:, (0, 2)]).max(axis=0)
    model.half_x, model.half_z = max(float(reach[0]), 0.22), max(float(reach[1]), 0.18) + 0.05
    return model


def _compute_joints(
    pose: dict[str, float], size: float, seat_m: float | None, turn: float
) -> dict[str, np.ndarray]:
    """Return positions in metres by name: keypoints, head, neck, crown, toes and hands.

    ``gaze`` is no position but the unit vector of the direction in which the person looks.

    Args:
        pose: joint angles, see ``_draw_pose``.
        size: factor of all lengths.
        seat_m: height of the seat; None for a person who stands.
        turn: rotation of the head about y in radians.
    """
    up = _swing(math.pi - pose["lean"], 0.0, 1.0)
    joints: dict[str, np.ndarray] = {}
    for name, side in (("left", 1.0), ("right", -1.0)):
        s = name[0]
        hip = point(side * 0.095 * size, 0, 0)
        knee = hip + _swing(pose[f"thigh_{s}"], 0.05, side) * 0.43 * size
        ankle = knee + _swing(pose[f"thigh_{s}"] - pose[f"knee_{s}"], 0.02, side) * 0.42 * size
        shoulder = up * 0.5 * size + point(side * 0.18 * size, 0, 0)
        elbow = shoulder + _swing(pose[f"arm_{s}"], pose[f"out_{s}"], side) * 0.28 * size
        bend = pose[f"arm_{s}"] + pose[f"elbow_{s}"]
        wrist = elbow + _swing(bend, pose[f"out_{s}"] * 0.5, side) * 0.25 * size
        hand = wrist + (wrist - elbow) * 0.3
        toe = ankle + point(side * 0.02, -0.03, 0.13) * size
        parts = {"hip": hip, "knee": knee, "ankle": ankle, "shoulder": shoulder, "elbow": elbow}
        parts |= {"wrist": wrist, "hand": hand, "toe": toe}
        joints |= {f"{name}_{part}": positions for part, positions in parts.items()}
    joints["neck"] = up * 0.56 * size
    joints["head"] = joints["neck"] + up * 0.15 * size + point(0, 0, 0.02 * size)
    look = rotation_y(turn)
    face = {"nose": (0, -0.01, 0.112), "crown": (0, 0.02, -0.02)}
    for name, side in (("left", 1.0), ("right", -1.0)):
        face |= {f"{name}_eye": (side * 0.035, 0.03, 0.088), f"{name}_ear": (side * 0.09, 0.0, 0.0)}
    for name, offset in face.items():
        joints[name] = joints["head"] + rotate(look, offset) * size
    joints["gaze"] = rotate(look, (0, 0, 1))
    lowest = min(float(joints[f"{name}_ankle"][1]) for name in ("left", "right"))
    lift = 0.075 * size - lowest if seat_m is None else seat_m + 0.085 * size
    return {k: v if k == "gaze" else v + point(0, lift, 0) for k, v in joints.items()}


def _sphere_radii(radius: float) -> Vector:
    return radius, radius, radius


def _dress(
    model: Model,
    joints: dict[str, np.ndarray],
    clothes: dict[str, Material],
    size: float,
    *,
    short_sleeves: bool,
) -> None:
    """Add the solids of body and clothes around the joints."""
    skin, shirt, trousers = clothes["skin"], clothes["shirt"], clothes["trousers"]
    hips = (joints["left_hip"] + joints["right_hip"]) / 2
    chest = joints["neck"] * 0.55 + hips * 0.45
    spine = align_y(joints["neck"] - hips)[:, 1]
    across = point(1, 0, 0)
    turn = np.stack([across, spine, cross(across, spine)], axis=1)
    model.add("ellipsoid", chest, (0.175 * size, 0.30 * size, 0.115 * size), shirt, rotation=turn)
    model.add("ellipsoid", hips, (0.165 * size, 0.13 * size, 0.12 * size), trousers)
    model.add_limb(joints["left_shoulder"], joints["right_shoulder"], 0.068 * size, shirt)
    model.add_limb(joints["neck"] - point(0, 0.05, 0) * size, joints["head"], 0.05 * size, skin)
    for s in ("left", "right"):
        model.add_limb(joints[f"{s}_shoulder"], joints[f"{s}_elbow"], 0.052 * size, shirt)
        sleeve = skin if short_sleeves else shirt
        model.add_limb(joints[f"{s}_elbow"], joints[f"{s}_wrist"], 0.04 * size, sleeve)
        model.add("ellipsoid", joints[f"{s}_hand"], _sphere_radii(0.045 * size), skin)
        model.add_limb(joints[f"{s}_hip"], joints[f"{s}_knee"], 0.08 * size, trousers)
        model.add_limb(joints[f"{s}_knee"], joints[f"{s}_ankle"], 0.058 * size, trousers)
        model.add_limb(joints[f"{s}_ankle"], joints[f"{s}_toe"], 0.042 * size, clothes["shoes"])
        model.add("ellipsoid", joints[f"{s}_eye"], _sphere_radii(0.014 * size), clothes["eyes"])
        model.add("ellipsoid", joints[f"{s}_ear"], _sphere_radii(0.022 * size), skin)
    gaze = joints["gaze"]
    look = np.stack([cross(point(0, 1, 0), gaze), point(0, 1, 0), gaze], axis=1)
    model.add(
        "ellipsoid", joints["head"], (0.088 * size, 0.12 * size, 0.1 * size), skin, rotation=look
    )
    hair = joints["crown"] + point(0, 0.02 * size, 0) - gaze * 0.012 * size
    model.add(
        "ellipsoid",
        hair,
        (0.097 * size, 0.108 * size, 0.098 * size),
        clothes["hair"],
        rotation=look,
    )
    model.add("ellipsoid", joints["nose"], (0.016 * size, 0.022 * size, 0.018 * size), skin)
