"""What the camera sees of people: keypoints with visibility, and boxes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from diffsight.rooms.raycast import occluded, rotate_rows
from diffsight.rooms.world import NEAR_M, Primitive, Scene, View, compose, rotate


@dataclass(frozen=True)
class Person:
    """One person in the image.

    Attributes:
        instance: value of the instance map.
        keypoints: ``17 3``: x and y in pixels, and 0 outside the image (then x = y = 0), 1 covered
            by something, 2 visible; order of COCO, see ``COCO_KEYPOINTS``.
        box: x0, y0, x1, y1 in pixels around the whole body, cut at the image's border; pixel
            centres are whole numbers, so the border lies at -0.5.
        visible_px: size of the visible part in pixels.
    """

    instance: int
    keypoints: Float[np.ndarray, "17 3"]
    box: tuple[float, float, float, float]
    visible_px: int


def find_people(scene: Scene, instance: Int[np.ndarray, "h w"]) -> tuple[Person, ...]:
    """Return the people of whom the instance map shows at least one pixel."""
    height, width = instance.shape
    people = []
    for index, thing in enumerate(scene.things):
        visible = int((instance == index).sum())
        if thing.joints is None or visible == 0:
            continue
        keypoints = _keypoints(scene, *thing.joints, height, width)
        solids = scene.primitives[thing.first : thing.first + thing.count]
        people.append(Person(index, keypoints, _box(scene.view, solids, height, width), visible))
    return tuple(people)


def _keypoints(
    scene: Scene, joints: np.ndarray, flesh: np.ndarray, height: int, width: int
) -> np.ndarray:
    focal = scene.view.focal_px(height, width)
    offset = (joints - scene.view.position).T
    right, down, forward = rotate_rows(scene.view.rotation.T, offset)
    depth = np.maximum(forward, 1e-6)
    x = right / depth * focal + (width - 1) / 2
    y = down / depth * focal + (height - 1) / 2
    inside = (forward > NEAR_M) & (np.abs(x - (width - 1) / 2) < width / 2)
    inside &= np.abs(y - (height - 1) / 2) < height / 2
    # the point where the line of sight enters the flesh around the joint
    distance = np.sqrt((offset * offset).sum(axis=0))
    skin = scene.view.position[:, None] + offset * ((distance - flesh) / distance)
    origins = scene.view.position[:, None]
    which = np.zeros(len(joints), dtype=np.int64)
    covered = occluded(scene, origins, which, skin, to_eye=True)
    visibility = np.where(inside, np.where(covered, 1, 2), 0)
    return np.stack([np.where(inside, x, 0), np.where(inside, y, 0), visibility], axis=1)


def _box(
    view: View, solids: tuple[Primitive, ...], height: int, width: int
) -> tuple[float, float, float, float]:
    """Return the exact bounds of the projections of ellipsoids and capsules."""
    bounds = np.array([_bounds(view, part) for part in solids])
    focal = view.focal_px(height, width)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    low = np.clip(bounds[:, 0].min(axis=0) * focal + middle, -0.5, [width - 0.5, height - 0.5])
    high = np.clip(bounds[:, 1].max(axis=0) * focal + middle, -0.5, [width - 0.5, height - 0.5])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _bounds(view: View, part: Primitive) -> np.ndarray:
    """Return the lowest and highest x and y on the image plane, ``(2, 2)``."""
    axes = compose(view.rotation.T, part.rotation)
    centre = rotate(view.rotation.T, part.centre - view.position)
    if part.shape == "ellipsoid":
        return _ellipsoid_bounds(centre, axes * np.array(part.size))
    radius, half, _ = part.size
    # the outline of a capsule is spanned by the outlines of its two balls
    ends = [_ellipsoid_bounds(centre + sign * half * axes[:, 1], axes * radius) for sign in (-1, 1)]
    return np.stack([np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])])


def _ellipsoid_bounds(centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Bounds of a projected ellipsoid from the dual conic ``A A^T - c c^T`` of its outline."""
    conic = compose(axes, axes.T) - centre[:, None] * centre[None, :]
    deepest = conic[2, 2]
    if centre[2] < 0 or deepest > -NEAR_M * NEAR_M:
        return np.array([[-np.inf, -np.inf], [np.inf, np.inf]])
    roots = [np.sqrt(max(conic[i, 2] ** 2 - conic[i, i] * deepest, 0.0)) for i in (0, 1)]
    middle = np.array([conic[0, 2], conic[1, 2]]) / deepest
    offsets = np.array(roots) / abs(deepest)
    return np.stack([middle - offsets, middle + offsets])
