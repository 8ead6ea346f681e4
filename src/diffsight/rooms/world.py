"""The data classes that describe a scene.

The world frame is in metres: x and z along the floor, y up. Its origin is the middle of the floor.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

CLASSES = (
    "wall",
    "floor",
    "ceiling",
    "window",
    "door",
    "curtain",
    "picture",
    "rug",
    "table",
    "chair",
    "sofa",
    "bed",
    "shelf",
    "cabinet",
    "lamp",
    "plant",
    "person",
    "tv",
    "refrigerator",
    "oven",
    "sink",
    "toilet",
    "bathtub",
    "box",
    "sphere",
    "cylinder",
    "cone",
    "vase",
    "book",
    "cushion",
)

NEAR_M = 0.05
Shape = Literal["plane", "box", "ellipsoid", "frustum", "capsule"]
Pattern = Literal[
    "solid", "checker", "stripes", "dots", "tiles", "bricks", "wood", "planks", "marble"
]
Real = float | int  # the type checks of the tests distinguish int from float
Vector = tuple[Real, Real, Real]


@dataclass(frozen=True)
class Material:
    """The look of a surface.

    Attributes:
        pattern: name of a pattern in ``materials``.
        colour: linear RGB in [0, 1] of the first colour of the pattern.
        second: linear RGB of the second colour.
        scale_m: size of one repeat of the pattern in metres.
        seed: seed of the random parts of the pattern.
        gloss: strength of the highlight, 0 to 1.
        glow: light that the surface emits, as a multiple of its colour.
        lower: another material below ``lower_m`` (skirting board or tiles of a wall).
        lower_m: height below which ``lower`` is used, in metres.
    """

    pattern: Pattern
    colour: Vector
    second: Vector
    scale_m: float = 0.3
    seed: int = 0
    gloss: float = 0.0
    glow: float = 0.0
    lower: "Material | None" = None
    lower_m: float = 0.0


@dataclass(frozen=True)
class Primitive:
    """A solid in a local frame, with an exact ray intersection. All lengths are in metres.

    Attributes:
        shape: ``plane`` (infinite; local y is its normal), ``box``, ``ellipsoid``, ``frustum`` (a
            truncated cone around local y) or ``capsule`` (a cylinder around local y with a half
            ball at both ends).
        centre: position of the centre in the world frame.
        rotation: matrix whose columns are the local axes in the world frame, ``3 3``.
        size: three numbers. Box: half extents. Ellipsoid: radii. Frustum: radius at the bottom,
            radius at the top, half height. Capsule: radius, half length of the cylinder, and an
            unused number. Plane: unused.
        material: look of the surface.
        thing: index of the thing that the solid is part of.
        caps: whether the bottom and the top of a frustum are closed.
        casts_shadow: False for lamp shades and window panes.
        sky: True for an opening through which the sky is seen.
    """

    shape: Shape
    centre: np.ndarray
    rotation: np.ndarray
    size: Vector
    material: Material
    thing: int
    caps: tuple[bool, bool] = (True, True)
    casts_shadow: bool = True
    sky: bool = False

    def half_extents(self) -> Vector:
        """Return half the sides of the bounding box along the local x, y and z axis."""
        if self.shape == "frustum":
            radius = max(self.size[0], self.size[1])
            return (radius, self.size[2], radius)
        if self.shape == "capsule":
            return (self.size[0], self.size[0] + self.size[1], self.size[0])
        return self.size


@dataclass(frozen=True)
class Thing:
    """One instance in a scene: an object, or a part of the building such as the floor.

    Attributes:
        kind: one of ``CLASSES``.
        colour: colour word of its main part.
        look: word for the pattern or material ("wooden", "striped"), or "".
        position: centre of its foot on the floor or on its support, in metres.
        half_x: half its width in metres, before the rotation by ``yaw``.
        half_z: half its depth in metres.
        height: height in metres.
        yaw: rotation about y in radians; 0 faces +z.
        support: index of the thing on which it stands, or None for the floor or a wall.
        joints: for a person, positions of the 17 COCO keypoints in the world, ``17 3``, and the
            thickness of the flesh over each, ``17``, in metres; None for all others.
        first: index of its first primitive in the scene.
        count: number of its primitives, which follow each other.
    """

    kind: str
    colour: str
    look: str
    position: Vector
    half_x: float
    half_z: float
    height: float
    yaw: float
    support: int | None = None
    joints: tuple[np.ndarray, np.ndarray] | None = None
    first: int = 0
    count: int = 0


@dataclass(frozen=True)
class Light:
    """A small lamp or the sun, sampled at four points.

    Attributes:
        points: world positions of the four points, ``(3, 4)``; each of the four rays of a pixel
            uses a different one.
        colour: linear RGB times power.
        half_distance_m: distance at which half of the light is left; infinite for the sun.
        gate: for the sun, the window through which it shines, as (axis of its normal, coordinate on
            that axis, lowest corner, highest corner) in the world; None for a lamp.
    """

    points: np.ndarray
    colour: Vector
    half_distance_m: float
    gate: tuple[int, float, np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class View:
    """The pose and the field of view of the camera.

    Attributes:
        position: position in the world, in metres.
        rotation: matrix whose columns are the right, down and forward axes of the camera in the
            world, ``3 3``.
        fov_rad: full angle of view along the longer side of an image, in radians.
    """

    position: np.ndarray
    rotation: np.ndarray
    fov_rad: float

    def focal_px(self, height: int, width: int) -> float:
        """Return the focal length in pixels of an image of this size."""
        return max(height, width) / 2 / round(math.tan(self.fov_rad / 2), 12)


@dataclass(frozen=True)
class Frames:
    """For every primitive, the camera in its local frame and its bounds on the image plane.

    Attributes:
        position: position of the camera in the frame of each primitive, ``n 3``.
        axes: right, down and forward axes of the camera in that frame, as columns, ``n 3 3``.
        bounds: lowest x, highest x, lowest y and highest y of the bounding box, projected to depth
            1, ``n 4``. They are infinite if the box reaches behind the camera, and reversed (lowest
            above highest) if all of it is behind the camera.
    """

    position: np.ndarray
    axes: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, primitives: tuple[Primitive, ...], view: View) -> "Frames":
        """Return the frames of all primitives, with explicit sums as in ``rotate``."""
        turn = np.stack([p.rotation for p in primitives])
        offset = view.position - np.stack([p.centre for p in primitives])
        position = np.sum([turn[:, i] * offset[:, i, None] for i in range(3)], axis=0)
        axes = np.sum([turn[:, i, :, None] * view.rotation[i] for i in range(3)], axis=0)
        half = np.array([p.half_extents() for p in primitives], dtype=np.float64)
        centre = np.sum([-offset[:, i, None] * view.rotation[i] for i in range(3)], axis=0)
        reach = half[:, :, None] * _CORNERS
        offsets = np.sum([axes[:, i, :, None] * reach[:, i, None] for i in range(3)], axis=0)
        bounds = _bound_boxes(centre[:, :, None] + offsets)
        bounds[[p.shape == "plane" for p in primitives]] = _EVERYWHERE
        return cls(position, axes, bounds)


_CORNERS = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], dtype=np.float64).T * 2 - 1
_EVERYWHERE = (-math.inf, math.inf, -math.inf, math.inf)
_NOWHERE = (math.inf, -math.inf, math.inf, -math.inf)


def _bound_boxes(corners: np.ndarray) -> np.ndarray:
    """Return bounds at depth 1, ``n 4``, of boxes with corners ``n 3 8`` in camera axes."""
    depth = corners[:, 2]
    safe = np.maximum(depth, NEAR_M)
    x, y = corners[:, 0] / safe, corners[:, 1] / safe
    bounds = np.stack([x.min(axis=1), x.max(axis=1), y.min(axis=1), y.max(axis=1)], axis=1)
    bounds[(depth < NEAR_M).any(axis=1)] = _EVERYWHERE
    bounds[(depth < NEAR_M).all(axis=1)] = _NOWHERE
    return bounds


def _bound_thing(solids: tuple[Primitive, ...]) -> tuple[np.ndarray, float]:
    """Return centre and radius of a ball around the solids; the radius is 0 for planes."""
    if any(p.shape == "plane" for p in solids):
        return np.zeros(3), 0.0
    centres = np.stack([p.centre for p in solids])
    half = np.array([p.half_extents() for p in solids], dtype=np.float64)
    turn = np.abs(np.stack([p.rotation for p in solids]))
    reach = turn[:, :, 0] * half[:, None, 0] + turn[:, :, 1] * half[:, None, 1]
    reach = reach + turn[:, :, 2] * half[:, None, 2]
    low, high = (centres - reach).min(axis=0), (centres + reach).max(axis=0)
    middle = (low + high) / 2
    offset = centres - middle
    radii = np.sqrt((offset * offset).sum(axis=1)) + np.sqrt((half * half).sum(axis=1))
    return middle, min(float(radii.max()), length(high - middle))


@dataclass(frozen=True)
class Scene:
    """A complete scene, from which images of any size can be rendered.

    Attributes:
        room_type: one of ``ROOM_TYPES``.
        half_size: half width, half height and half depth of the room in metres.
        primitives: all solids; the first six are the planes of the room.
        things: all instances.
        lights: one or two lights.
        ambient: linear RGB of the ambient light.
        sky: linear RGB at the horizon, at the zenith and of the ground outside.
        view: the camera.
        noise: standard deviation of the sensor noise; encoded image values are in [0, 1].
        split: name of the split.
        seed: seed of the data set.
        index: index of the scene.
    """

    room_type: str
    half_size: Vector
    primitives: tuple[Primitive, ...]
    things: tuple[Thing, ...]
    lights: tuple[Light, ...]
    ambient: Vector
    sky: tuple[Vector, Vector, Vector]
    view: View
    noise: float
    split: str
    seed: int
    index: int

    @cached_property
    def frames(self) -> "Frames":
        """The camera in the frame of every primitive, computed once."""
        return Frames.of(self.primitives, self.view)

    @cached_property
    def balls(self) -> tuple[tuple[np.ndarray, float], ...]:
        """Centre and radius of a bounding ball of each thing; the radius of planes is 0."""
        return tuple(
            _bound_thing(self.primitives[t.first : t.first + t.count]) for t in self.things
        )

    @property
    def id(self) -> str:
        """Name of the scene, made of split, seed and index."""
        return f"rooms-{self.split}-{self.seed}-{self.index:06d}"


def point(x: Real, y: Real, z: Real) -> np.ndarray:
    """Return a position or a direction as an array."""
    return np.array([x, y, z], dtype=np.float64)


def length(v: np.ndarray) -> float:
    """Return the length of a vector."""
    return math.sqrt(float(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]))


def rotation_y(yaw: Real) -> np.ndarray:
    """Return a rotation matrix about y, rounded so that every math library gives the same one."""
    s, c = round(math.sin(yaw), 12), round(math.cos(yaw), 12)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def rotate(matrix: np.ndarray, vector: Vector | np.ndarray) -> np.ndarray:
    """Return matrix times vector, with explicit sums (BLAS varies in the last bits)."""
    x, y, z = (float(v) for v in vector)
    return np.array([a * x + b * y + c * z for a, b, c in matrix.tolist()])


def compose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product of two matrices, with explicit sums as in ``rotate``."""
    columns = list(zip(*b.tolist(), strict=True))
    return np.array([[p * x + q * y + r * z for x, y, z in columns] for p, q, r in a.tolist()])


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of two vectors."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def align_y(direction: Vector | np.ndarray) -> np.ndarray:
    """Return a rotation matrix whose second column points along ``direction``."""
    d = np.asarray(direction, dtype=np.float64)
    d = d / length(d)
    helper = np.array([1.0, 0.0, 0.0]) if abs(d[0]) < 0.9 else np.array([0.0, 0.0, 1.0])
    x = cross(d, helper)
    x = x / length(x)
    return np.stack([x, d, cross(x, d)], axis=1)
