"""Labels from geometry, at the centre of every pixel; only the chosen ones are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from diffsight.errors import InputError
from diffsight.rooms import filters
from diffsight.rooms.primitives import curvature, normal, points_on
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
# a curvature radius below 1 cm only occurs at the tips of cones, where it has no limit
MAX_CURVATURE_PER_M = 100.0


@dataclass(frozen=True)
class LabelMap:
    """One label: ``c h w`` of float32 or ``h w`` of int64, and where it means something."""

    value: np.ndarray
    valid: Bool[np.ndarray, "h w"]


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        InputError: if one is not a label of the rooms.
    """
    for name in names:
        if name not in LABELS:
            raise InputError(f"unknown label {name!r} of rooms: choose from {', '.join(LABELS)}")
    return tuple(names)


class Geometry:
    """What the centre of every pixel shows.

    Args:
        scene: the world.
        height: rows of the image.
        width: columns.
        clean: the image without noise, if it is there already.
    """

    def __init__(
        self, scene: Scene, height: int, width: int, clean: np.ndarray | None = None
    ) -> None:
        self.scene = scene
        self.shape = (height, width)
        self.grid = Grid.of_image(scene.view, height, width)
        self._clean = clean

    def label(self, name: str) -> LabelMap:
        """Return one label by its name."""
        if name in ("edge_texture", "keypoints2d"):
            find = filters.edge_texture if name == "edge_texture" else filters.keypoints2d
            return LabelMap(
                find(self.luminance)[None].astype(np.float32), np.ones(self.shape, dtype=bool)
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
        """First hits in double precision."""
        return cast(self.scene, self.grid)

    @cached_property
    def solid(self) -> np.ndarray:
        """Where the ray meets a surface; False where it leaves through a window."""
        sky = np.array([p.sky for p in self.scene.primitives])
        return ~sky[self.hits.primitive]

    @cached_property
    def depth(self) -> np.ndarray:
        """z-depth in metres."""
        return self.hits.depth_m

    @cached_property
    def ray_length(self) -> np.ndarray:
        """Length of the ray per metre of z-depth."""
        x, y = self.grid.x[None, :], self.grid.y[:, None]
        return np.sqrt(x * x + y * y + 1)

    @cached_property
    def points(self) -> np.ndarray:
        """Camera coordinates in metres."""
        return np.stack(
            [self.grid.x[None, :] * self.depth, self.grid.y[:, None] * self.depth, self.depth]
        )

    @cached_property
    def instance(self) -> np.ndarray:
        """Index of the thing."""
        thing = np.array([p.thing for p in self.scene.primitives], dtype=np.int64)
        return thing[self.hits.primitive]

    @cached_property
    def semantic(self) -> np.ndarray:
        """Index into ``CLASSES``."""
        kinds = np.array([CLASSES.index(t.kind) for t in self.scene.things], dtype=np.int64)
        return kinds[self.instance]

    @cached_property
    def luminance(self) -> np.ndarray:
        """Grey values of the noise-free image in [0, 1]."""
        clean = self._clean
        if clean is None:
            clean = render_clean(self.scene, *self.shape)
        return 0.299 * clean[0].astype(np.float64) + 0.587 * clean[1] + 0.114 * clean[2]

    @cached_property
    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Camera-frame normals towards the camera, and principal curvatures of that side."""
        normals = np.zeros((3, *self.shape))
        curvatures = np.zeros((2, *self.shape))
        index = self.hits.primitive.ravel()
        order = np.argsort(index, kind="stable")
        bounds = np.searchsorted(index[order], np.arange(len(self.scene.primitives) + 1))
        for i in np.flatnonzero(np.diff(bounds)):
            where = order[bounds[i] : bounds[i + 1]]
            rows, columns = where // self.shape[1], where % self.shape[1]
            primitive = self.scene.primitives[i]
            x, y = self.grid.x[columns], self.grid.y[rows]
            origin, direction = local_rays(self.scene, int(i), x, y)
            depth = self.depth[rows, columns]
            local = points_on(origin, direction, depth)
            outward = normal(primitive, local)
            away = sum(n * d for n, d in zip(outward, direction, strict=True)) > 0
            sign = np.where(away, -1.0, 1.0)
            world = rotate_rows(primitive.rotation, [n * sign for n in outward])
            normals[:, rows, columns] = rotate_rows(self.scene.view.rotation.T, world)
            first, second = curvature(primitive, local)
            curvatures[:, rows, columns] = (
                np.where(away, -second, first),
                np.where(away, -first, second),
            )
        return normals, curvatures

    @cached_property
    def normals(self) -> np.ndarray:
        """Unit normals in camera axes, facing the camera."""
        return self._sides[0]

    @cached_property
    def occlusion(self) -> np.ndarray:
        """Strength of occlusion edges."""
        return filters.edge_occlusion(self.points, self.normals, self.solid)

    def _curvature(self) -> tuple[np.ndarray, np.ndarray]:
        value = self._sides[1]
        return value, self.solid & (np.abs(value).max(axis=0) <= MAX_CURVATURE_PER_M)

    def _reshading(self) -> np.ndarray:
        ray = [self.grid.x[None, :], self.grid.y[:, None], 1.0]
        facing = sum(-n * r for n, r in zip(self.normals, ray, strict=True))
        return np.clip(facing / self.ray_length, 0, 1)

    def _keypoints3d(self) -> tuple[np.ndarray, np.ndarray]:
        focal = self.scene.view.focal_px(*self.shape)
        score = filters.keypoints3d(self.points, self.normals, self.occlusion, self.solid, focal)
        return score[None], self.solid
