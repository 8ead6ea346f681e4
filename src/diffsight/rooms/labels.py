"""Label maps of a scene, computed from its geometry at the centre of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from diffsight.errors import InputError
from diffsight.rooms import filters
from diffsight.rooms.primitives import compute_curvatures, compute_normals, points_on
from diffsight.rooms.raycast import Grid, Hits, cast, local_rays, rotate_rows
from diffsight.rooms.render import render_clean
from diffsight.rooms.world import CLASSES, Scene

LABELS = (
    "semantic",
    "instance",
    "depth_m",
    "euclidean_depth_m",
    "normals",
    "points_m",
    "principal_curvature_per_m",
    "reshading",
    "edge_occlusion",
    "edge_texture",
    "keypoints2d",
    "keypoints3d",
)
# larger curvatures are invalid: radii below 1 cm, at the tips of cones and on very thin things
MAX_CURVATURE_PER_M = 100.0


@dataclass(frozen=True)
class LabelMap:
    """A label map and the mask of its valid pixels.

    Attributes:
        value: ``c h w`` of float32, or ``h w`` of int64.
        valid: True where the label is defined, ``h w``.
    """

    value: np.ndarray
    valid: Bool[np.ndarray, "h w"]


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple if all of them are in ``LABELS``.

    Raises:
        InputError: if the rooms have no label of one of the names.
    """
    for name in names:
        if name not in LABELS:
            raise InputError(f"unknown label {name!r} of rooms: choose from {', '.join(LABELS)}")
    return tuple(names)


class Geometry:
    """The surfaces seen at the pixel centres of an image, from which all labels are computed.

    Args:
        scene: the scene.
        height: rows of the image.
        width: columns of the image.
        clean: the image without noise; None renders it when a label needs it.
    """

    def __init__(
        self, scene: Scene, height: int, width: int, clean: np.ndarray | None = None
    ) -> None:
        self.scene = scene
        self.shape = (height, width)
        self.grid = Grid.of_image(scene.view, height, width)
        self._clean = clean

    def label(self, name: str) -> LabelMap:
        """Return the label map of one of ``LABELS``."""
        if name in ("edge_texture", "keypoints2d"):
            image_filter = filters.edge_texture if name == "edge_texture" else filters.keypoints2d
            return LabelMap(
                image_filter(self.luminance)[None].astype(np.float32),
                np.ones(self.shape, dtype=bool),
            )
        maps = {
            "semantic": lambda: (self.semantic, np.ones(self.shape, dtype=bool)),
            "instance": lambda: (self.instance, np.ones(self.shape, dtype=bool)),
            "depth_m": lambda: (self.depth[None], self.solid),
            "euclidean_depth_m": lambda: ((self.depth * self.ray_length)[None], self.solid),
            "normals": lambda: (self.normals, self.solid),
            "points_m": lambda: (self.points, self.solid),
            "principal_curvature_per_m": self._curvature,
            "reshading": lambda: (self._reshading()[None], self.solid),
            "edge_occlusion": lambda: (self.occlusion[None], self.solid),
            "keypoints3d": self._keypoints3d,
        }
        value, valid = maps[name]()
        if value.dtype == np.int64:
            return LabelMap(value, valid)
        return LabelMap(np.where(valid, value, 0).astype(np.float32), valid)

    @cached_property
    def hits(self) -> Hits:
        """First intersections of the rays through the pixel centres, in double precision."""
        return cast(self.scene, self.grid)

    @cached_property
    def solid(self) -> np.ndarray:
        """True where the ray meets a surface, False where it leaves through a window, ``h w``."""
        sky = np.array([p.sky for p in self.scene.primitives])
        return ~sky[self.hits.primitive]

    @cached_property
    def depth(self) -> np.ndarray:
        """Depth along the optical axis in metres, ``h w``."""
        return self.hits.depth_m

    @cached_property
    def ray_length(self) -> np.ndarray:
        """Length of the ray per metre of depth along the optical axis, ``h w``."""
        x, y = self.grid.x[None, :], self.grid.y[:, None]
        return np.sqrt(x * x + y * y + 1)

    @cached_property
    def points(self) -> np.ndarray:
        """Camera coordinates in metres, ``3 h w``."""
        return np.stack(
            [self.grid.x[None, :] * self.depth, self.grid.y[:, None] * self.depth, self.depth]
        )

    @cached_property
    def instance(self) -> np.ndarray:
        """Index of the thing at every pixel, ``h w``."""
        thing = np.array([p.thing for p in self.scene.primitives], dtype=np.int64)
        return thing[self.hits.primitive]

    @cached_property
    def semantic(self) -> np.ndarray:
        """Index into ``CLASSES`` at every pixel, ``h w``."""
        kinds = np.array([CLASSES.index(t.kind) for t in self.scene.things], dtype=np.int64)
        return kinds[self.instance]

    @cached_property
    def luminance(self) -> np.ndarray:
        """Grey values of the image without noise, in [0, 1], ``h w``."""
        clean = self._clean
        if clean is None:
            clean = render_clean(self.scene, *self.shape)
        return 0.299 * clean[0].astype(np.float64) + 0.587 * clean[1] + 0.114 * clean[2]

    @cached_property
    def _visible_sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Normals towards the camera, ``3 h w``, and curvatures of that side in 1/m, ``2 h w``."""
        normals = np.zeros((3, *self.shape))
        curvatures = np.zeros((2, *self.shape))
        index = self.hits.primitive.ravel()
        order = np.argsort(index, kind="stable")
        bounds = np.searchsorted(index[order], np.arange(len(self.scene.primitives) + 1))
        for i in np.flatnonzero(np.diff(bounds)):
            pixels = order[bounds[i] : bounds[i + 1]]
            rows, columns = pixels // self.shape[1], pixels % self.shape[1]
            primitive = self.scene.primitives[i]
            x, y = self.grid.x[columns], self.grid.y[rows]
            origin, direction = local_rays(self.scene, int(i), x, y)
            depth = self.depth[rows, columns]
            local = points_on(origin, direction, depth)
            outward = compute_normals(primitive, local)
            away = sum(n * d for n, d in zip(outward, direction, strict=True)) > 0
            sign = np.where(away, -1.0, 1.0)
            world = rotate_rows(primitive.rotation, [n * sign for n in outward])
            normals[:, rows, columns] = rotate_rows(self.scene.view.rotation.T, world)
            first, second = compute_curvatures(primitive, local)
            curvatures[:, rows, columns] = (
                np.where(away, -second, first),
                np.where(away, -first, second),
            )
        return normals, curvatures

    @cached_property
    def normals(self) -> np.ndarray:
        """Unit normals in camera axes, facing the camera, ``3 h w``."""
        return self._visible_sides[0]

    @cached_property
    def occlusion(self) -> np.ndarray:
        """Strength of occlusion edges, 0 to 1, ``h w``."""
        return filters.edge_occlusion(self.points, self.normals, self.solid)

    def _curvature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the principal curvatures in 1/m, ``2 h w``, and the mask of valid pixels."""
        value = self._visible_sides[1]
        return value, self.solid & (np.abs(value).max(axis=0) <= MAX_CURVATURE_PER_M)

    def _reshading(self) -> np.ndarray:
        """Return the cosine of the angle between normal and viewing ray, in [0, 1], ``h w``."""
        ray = [self.grid.x[None, :], self.grid.y[:, None], 1.0]
        facing = sum(-n * r for n, r in zip(self.normals, ray, strict=True))
        return np.clip(facing / self.ray_length, 0, 1)

    def _keypoints3d(self) -> tuple[np.ndarray, np.ndarray]:
        focal = self.scene.view.focal_px(*self.shape)
        score = filters.keypoints3d(self.points, self.normals, self.occlusion, self.solid, focal)
        return score[None], self.solid
