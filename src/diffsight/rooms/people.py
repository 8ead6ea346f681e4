"""Annotations of the visible people: keypoints with visibility, and boxes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from diffsight.rooms.raycast import occluded, rotate_rows
from diffsight.rooms.world import NEAR_M, Primitive, Scene, View, compose, rotate


@dataclass(frozen=True)
class Person:
    """Keypoints and box of one person in the image.

    Attributes:
        instance: value of the person in the instance map.
        keypoints: ``17 3`` in the order of ``COCO_KEYPOINTS``: x and y in pixels, and the
            visibility: 0 outside the image (then x = y = 0), 1 covered, 2 visible.
        box: x0, y0, x1, y1 in pixels around the whole body, clipped to the image. Pixel centres are
            whole numbers, so the image begins at -0.5.
        visible_px: number of visible pixels.
    """

    instance: int
    keypoints: Float[np.ndarray, "17 3"]
    box: tuple[float, float, float, float]
    visible_px: int


def find_people(scene: Scene, instance: Int[np.ndarray, "h w"]) -> tuple[Person, ...]:
    """Return the people with at least one pixel in the instance map ``h w``."""
    height, width = instance.shape
    people = []
    for index, thing in enumerate(scene.things):
        visible = int((instance == index).sum())
        if thing.joints is None or visible == 0:
            continue
        keypoints = _project_keypoints(scene, *thing.joints, height, width)
        solids = scene.primitives[thing.first : thing.first + thing.count]
        people.append(
            Person(index, keypoints, _bound_body(scene.view, solids, height, width), visible)
        )
    return tuple(people)


def _project_keypoints(
    scene: Scene, joints: np.ndarray, flesh: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return the keypoints of a person in pixels with their visibility, see ``Person``.

    Args:
        scene: the scene.
        joints: positions of the keypoints in the world, ``17 3``.
        flesh: thickness of the flesh over each keypoint in metres, ``17``.
        height: rows of the image.
        width: columns of the image.
    """
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
    origin_index = np.zeros(len(joints), dtype=np.int64)
    covered = occluded(scene, origins, origin_index, skin, to_eye=True)
    visibility = np.where(inside, np.where(covered, 1, 2), 0)
    return np.stack([np.where(inside, x, 0), np.where(inside, y, 0), visibility], axis=1)


def _bound_body(
    view: View, solids: tuple[Primitive, ...], height: int, width: int
) -> tuple[float, float, float, float]:
    """Return x0, y0, x1 and y1 of the box around all solids of a body, in pixels."""
    bounds = np.array([_bound_solid(view, part) for part in solids])
    focal = view.focal_px(height, width)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    low = np.clip(bounds[:, 0].min(axis=0) * focal + middle, -0.5, [width - 0.5, height - 0.5])
    high = np.clip(bounds[:, 1].max(axis=0) * focal + middle, -0.5, [width - 0.5, height - 0.5])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _bound_solid(view: View, part: Primitive) -> np.ndarray:
    """Return the lowest x and y, then the highest, of a solid projected to depth 1, ``(2, 2)``."""
    axes = compose(view.rotation.T, part.rotation)
    centre = rotate(view.rotation.T, part.centre - view.position)
    if part.shape == "ellipsoid":
        return _bound_ellipsoid(centre, axes * np.array(part.size))
    radius, half, _ = part.size
    # the box of a capsule is that of its two end balls
    ends = [_bound_ellipsoid(centre + sign * half * axes[:, 1], axes * radius) for sign in (-1, 1)]
    return np.stack([np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])])


def _bound_ellipsoid(centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the bounds of a projected ellipsoid, from the dual conic ``A A^T - c c^T``.

    The columns of ``axes`` are its half axes; all coordinates are in camera axes, in metres.
    """
    conic = compose(axes, axes.T) - centre[:, None] * centre[None, :]
    deepest = conic[2, 2]
    if centre[2] < 0 or deepest > -NEAR_M * NEAR_M:
        return np.array([[-np.inf, -np.inf], [np.inf, np.inf]])
    roots = [np.sqrt(max(conic[i, 2] ** 2 - conic[i, i] * deepest, 0.0)) for i in (0, 1)]
    middle = np.array([conic[0, 2], conic[1, 2]]) / deepest
    offsets = np.array(roots) / abs(deepest)
    return np.stack([middle - offsets, middle + offsets])
