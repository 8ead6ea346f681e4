"""Render a scene: materials, light and shadow at 2 x 2 points per pixel, and sensor noise."""

import numpy as np
from jaxtyping import Float, UInt8

from diffsight.rooms.draw import stream
from diffsight.rooms.materials import compute_albedo
from diffsight.rooms.primitives import compute_normals, compute_texture_coordinates, points_on
from diffsight.rooms.raycast import Grid, cast, local_rays, occluded, rotate_rows
from diffsight.rooms.world import Light, Material, Scene, rotation_y

_LEVELS = 4096
# encoded value of every level of linear light; a table, because powers differ in their last bits
# between machines
_ENCODE = np.array(
    [round((i / (_LEVELS - 1)) ** (1 / 2.2), 7) for i in range(_LEVELS)], dtype=np.float32
)


def render_clean(scene: Scene, height: int, width: int) -> Float[np.ndarray, "3 h w"]:
    """Return the image without sensor noise: gamma-encoded RGB in [0, 1], float32."""
    grid = Grid.of_image(scene.view, height, width, per_pixel=2, dtype=np.float32)
    hits = cast(scene, grid)
    index = hits.primitive.ravel()
    order = np.argsort(index, kind="stable")
    columns, rows = order % (2 * width), order // (2 * width)
    surfaces = _Surfaces(
        scene, index[order], grid.x[columns], grid.y[rows], hits.depth_m.ravel()[order]
    )
    # each of the four points of a pixel sees another of the four points of a lamp
    phase = columns % 2 + 2 * (rows % 2)
    light = surfaces.glow
    for lamp in scene.lights:
        light += surfaces.reflect_lamp(lamp, phase)
    light += surfaces.reflect_ambient()
    colour = np.empty_like(light)
    colour[:, order] = light
    colour = colour.reshape(3, height, 2, width, 2)
    mean = (colour[:, :, 0, :, 0] + colour[:, :, 0, :, 1]) + (
        colour[:, :, 1, :, 0] + colour[:, :, 1, :, 1]
    )
    return _encode(mean * np.float32(0.25))


def _encode(light: np.ndarray) -> np.ndarray:
    """Return gamma-encoded values of linear light, after tone mapping with a soft shoulder."""
    # the slope is 1.5 in the dark; 1 becomes 1, and brighter light is clipped
    tone = light * (1.5 + 0.45 * light) / (1 + 0.95 * light)
    level = np.minimum(tone * (_LEVELS - 1) + 0.5, _LEVELS - 1).astype(np.int32)
    return _ENCODE[level]


def add_noise(scene: Scene, clean: Float[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "3 h w"]:
    """Return the 8-bit image with sensor noise, which depends on the scene and the size only."""
    _, height, width = clean.shape
    draw = stream(scene.split, scene.seed, scene.index, f"noise/{height}x{width}")
    noisy = clean + draw.noise(clean.shape) * np.float32(scene.noise)
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)


class _Surfaces:
    """The visible points, sorted by primitive, with their material and the light they reflect.

    Args:
        scene: the scene.
        index: primitive of every point, ascending, ``p``.
        x: image-plane coordinates of the points at depth 1, ``p``.
        y: the same for y.
        depth: depth of the points in metres, ``p``.
    """

    def __init__(
        self, scene: Scene, index: np.ndarray, x: np.ndarray, y: np.ndarray, depth: np.ndarray
    ) -> None:
        self.scene = scene
        rays = rotate_rows(scene.view.rotation, [x, y, np.ones_like(x)])
        self.position = np.stack(
            [r * depth + np.float32(o) for r, o in zip(rays, scene.view.position, strict=True)]
        )
        length = np.sqrt(x * x + y * y + 1)
        self.to_camera = np.stack([-r / length for r in rays])
        self.normal = np.empty_like(self.position)
        self.albedo = np.empty_like(self.position)
        self.glow = np.zeros_like(self.position)
        self.gloss = np.zeros_like(depth)
        bounds = np.searchsorted(index, np.arange(len(scene.primitives) + 1))
        for i in np.flatnonzero(np.diff(bounds)):
            part = slice(int(bounds[i]), int(bounds[i + 1]))
            self._fill_primitive(int(i), part, x[part], y[part], depth[part])
        facing = self.normal * self.to_camera
        flip = facing[0] + facing[1] + facing[2] < 0
        self.normal[:, flip] *= -1

    def _fill_primitive(
        self, i: int, part: slice, x: np.ndarray, y: np.ndarray, depth: np.ndarray
    ) -> None:
        """Set normals and material of ``part``, the points on primitive ``i``."""
        primitive = self.scene.primitives[i]
        if primitive.sky:
            self.normal[:, part] = self.to_camera[:, part]
            self.albedo[:, part] = 0
            self.glow[:, part] = _compute_sky(self.scene, -self.to_camera[1, part])
            return
        origin, direction = local_rays(self.scene, i, x, y)
        local = points_on(origin, direction, depth)
        world = rotate_rows(primitive.rotation, list(compute_normals(primitive, local)))
        for axis in range(3):
            self.normal[axis, part] = world[axis]
        surface: Material = primitive.material
        colour = compute_albedo(surface, *compute_texture_coordinates(primitive, local))
        self.albedo[:, part] = colour
        self.gloss[part] = surface.gloss
        if surface.glow:
            self.glow[:, part] = colour * np.float32(surface.glow)

    def reflect_lamp(self, lamp: Light, phase: np.ndarray) -> np.ndarray:
        """Return the light of one lamp that the points reflect towards the camera, ``3 p``.

        Args:
            lamp: the lamp, or the sun.
            phase: which of the lamp's four sample points each visible point uses, ``p``.
        """
        result = np.zeros_like(self.position)
        way = lamp.points.astype(np.float32)[:, phase] - self.position
        distance2 = way[0] * way[0] + way[1] * way[1] + way[2] * way[2]
        along = way * self.normal
        cosine = along[0] + along[1] + along[2]
        reached = cosine > 0
        if lamp.gate is not None:
            reached &= _enters_window(lamp, phase, self.position, way)
        lit = np.flatnonzero(reached)
        shadow = occluded(self.scene, lamp.points, phase[lit], self.position[:, lit])
        lit = lit[~shadow]
        distance = np.sqrt(distance2[lit])
        cosine = cosine[lit] / distance
        fall = 1 / (1 + distance2[lit] * np.float32(1 / lamp.half_distance_m**2))
        shine = self._compute_highlight(lit, way, distance)
        for channel in range(3):
            power = fall * np.float32(lamp.colour[channel])
            result[channel, lit] = power * (self.albedo[channel, lit] * cosine + shine)
        return result

    def _compute_highlight(
        self, lit: np.ndarray, way: np.ndarray, distance: np.ndarray
    ) -> np.ndarray:
        """Return the highlight of glossy points (Blinn's model with exponent 32)."""
        shine = np.zeros_like(distance)
        glossy = np.flatnonzero(self.gloss[lit])
        at = lit[glossy]
        half = way[:, at] / distance[glossy] + self.to_camera[:, at]
        product = half * self.normal[:, at]
        squares = half * half
        cosine = product[0] + product[1] + product[2]
        power = cosine * cosine / np.maximum(squares[0] + squares[1] + squares[2], 1e-6)
        for _ in range(4):
            power = power * power
        shine[glossy] = self.gloss[at] * power
        return shine

    def reflect_ambient(self) -> np.ndarray:
        """Return the reflected ambient light, ``3 p``, which is weaker in corners."""
        half_x, half_y, half_z = (np.float32(v) for v in self.scene.half_size)
        x, y, z = self.position
        open_ = np.ones_like(x)
        up = self.normal[1]
        for gap, facing in (
            (half_x - np.abs(x), np.abs(self.normal[0])),
            (half_z - np.abs(z), np.abs(self.normal[2])),
            (y, np.abs(up)),
            (2 * half_y - y, np.abs(up)),
        ):
            near = np.float32(1) - np.minimum(gap * np.float32(1.6), 1)
            open_ = open_ * (1 - np.float32(0.45) * near * near * (1 - facing))
        floor = np.flatnonzero((up > np.float32(0.9)) & (y < np.float32(0.02)))
        open_[floor] *= self._shade_floor(x[floor], z[floor])
        sky = (np.float32(0.9) + np.float32(0.1) * np.abs(up)) * open_
        return self.albedo * np.array(self.scene.ambient, np.float32)[:, None] * sky

    def _shade_floor(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the fraction of the ambient light that reaches points of the floor near things."""
        fraction = np.ones_like(x)
        for thing in self.scene.things:
            if thing.support is not None or thing.position[1] > 0 or thing.height < 0.1:
                continue
            turn = rotation_y(thing.yaw)
            dx, dz = x - np.float32(thing.position[0]), z - np.float32(thing.position[2])
            c, s = np.float32(turn[0, 0]), np.float32(turn[0, 2])
            gap_x = np.maximum(np.abs(c * dx - s * dz) - np.float32(thing.half_x), 0)
            gap_z = np.maximum(np.abs(s * dx + c * dz) - np.float32(thing.half_z), 0)
            reach = np.float32(1 / (0.12 + 0.15 * min(thing.height, 1.5)))
            near = np.maximum(1 - (gap_x + gap_z) * reach, 0)
            fraction *= 1 - np.float32(0.5) * near * near
        return fraction


def _enters_window(
    lamp: Light, phase: np.ndarray, position: np.ndarray, way: np.ndarray
) -> np.ndarray:
    """Return a mask of the points whose ray to the sun passes through the window."""
    assert lamp.gate is not None
    axis, coordinate, low, high = lamp.gate
    fraction = (np.float32(coordinate) - position[axis]) / np.where(
        way[axis] == 0, np.float32(1e-6), way[axis]
    )
    inside = (fraction > -1e-3) & (fraction < 1)
    for other in range(3):
        if other != axis:
            at = position[other] + way[other] * fraction
            inside &= (at > float(low[other])) & (at < float(high[other]))
    return inside


def _compute_sky(scene: Scene, upward: np.ndarray) -> np.ndarray:
    """Return the radiance of the sky in directions with these vertical components, ``3 p``."""
    horizon, zenith, ground = (np.array(c, np.float32)[:, None] for c in scene.sky)
    up = np.clip(upward * np.float32(2.5), 0, 1)
    return np.where(
        upward > 0,
        horizon + (zenith - horizon) * up,
        ground + (horizon - ground) * np.float32(0.15),
    )
