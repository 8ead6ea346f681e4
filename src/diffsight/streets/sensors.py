"""The six cameras and the LiDAR of the vehicle: their poses, images and points."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from diffsight.ops.draw import Draw
from diffsight.streets.scene import TEXTURE_SIZE, Scene, stream
from diffsight.streets.solids import GROUND, SKY, Hits, cast

# name -> position in metres, yaw in degrees (left is positive), horizontal angle of view in degrees
CAMERAS = {
    "front": ((0.9, 0.0, 1.5), 0, 70),
    "front right": ((0.7, -0.5, 1.5), -55, 70),
    "front left": ((0.7, 0.5, 1.5), 55, 70),
    "back": ((-0.9, 0.0, 1.5), 180, 110),
    "back left": ((0.2, 0.5, 1.55), 110, 70),
    "back right": ((0.2, -0.5, 1.55), -110, 70),
}
HORIZON = 0.25  # row of the horizon as a fraction of the image height
RAYS = 2  # rays along each side of a pixel
TEXTURE_M = 0.2  # size of a cell of the ground texture
TEXTURE_STRENGTH = 0.06
PIXEL_NOISE_STD = 0.012  # as a fraction of full scale

LIDAR_M = (0.0, 0.0, 1.8)  # position of the LiDAR
BEAMS_DEG = (-30.0, 10.0)  # elevation of the lowest and of the highest beam
BEAMS, AZIMUTHS = 32, 360  # number of beams, and of directions of each beam
RANGE_M = 60.0  # points that are farther away are not measured
RANGE_NOISE_M = 0.02  # standard deviation of the noise of the distance
# intensity of LiDAR points by material of the ground, 0 to 255
INTENSITY = np.array([18, 8, 60, 24, 60, 12, 60, 8, 28], dtype=np.float32)


@dataclass(frozen=True)
class CameraPose:
    """A pinhole camera on the vehicle. The centre of the top-left pixel is (0, 0).

    Attributes:
        intrinsics: matrix from camera axes to the image, in pixels.
        to_vehicle: transform from camera axes (x right, y down, z forward) to the vehicle frame.
        hw: height and width of its images in pixels.
    """

    intrinsics: Float[np.ndarray, "4 4"]
    to_vehicle: Float[np.ndarray, "4 4"]
    hw: tuple[int, int]

    def rays(self, per_side: int) -> Float[np.ndarray, "3 h w"]:
        """Return directions of rays in the frame of the vehicle.

        Every pixel has ``per_side`` x ``per_side`` rays. Their component along the optical axis
        is 1.
        """
        rows, columns = (
            ((np.arange(size * per_side) + 0.5) / per_side - 0.5).astype(np.float32)
            for size in self.hw
        )
        x = (columns - self.intrinsics[0, 2]) / self.intrinsics[0, 0]
        y = (rows - self.intrinsics[1, 2]) / self.intrinsics[1, 1]
        parts = [a * x + (b * y + c)[:, None] for a, b, c in self.to_vehicle[:3, :3].tolist()]
        return np.stack(parts).astype(np.float32)


def camera_poses(scene: Scene, hw: tuple[int, int]) -> list[CameraPose]:
    """Return the poses of the cameras in the order of ``CAMERAS``; they vary a little by scene.

    Args:
        scene: the scene.
        hw: height and width of the images in pixels.
    """
    draw = stream(f"{scene.id}/cameras")
    poses = []
    for (x, y, z), yaw_deg, view_deg in CAMERAS.values():
        focal = hw[1] / 2 / math.tan(math.radians(view_deg / 2))
        intrinsics = np.eye(4)
        intrinsics[0, 0] = intrinsics[1, 1] = focal
        intrinsics[:2, 2] = (hw[1] - 1) / 2, HORIZON * (hw[0] - 1)
        yaw = math.radians(yaw_deg + draw.uniform(-1.5, 1.5))
        pitch = math.radians(draw.uniform(-1, 1))
        c, s = math.cos(yaw), math.sin(yaw)
        forward = np.array([c * math.cos(pitch), s * math.cos(pitch), math.sin(pitch)])
        right = np.array([s, -c, 0])
        to_vehicle = np.eye(4)
        to_vehicle[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        to_vehicle[:3, 3] = x, y, z + draw.uniform(-0.1, 0.1)
        poses.append(CameraPose(intrinsics, to_vehicle, hw))
    return poses


def photograph(scene: Scene, pose: CameraPose, noise: Draw) -> UInt8[np.ndarray, "3 h w"]:
    """Return the RGB image of a camera, with sensor noise drawn from ``noise``."""
    rays, origin = pose.rays(RAYS), pose.to_vehicle[:3, 3]
    hits = cast(scene.solids, origin, rays)
    look = scene.look
    colours = np.empty_like(rays)
    is_ground, is_sky = hits.solid == GROUND, hits.solid == SKY
    ground = hits.points(origin, rays, is_ground)
    colours[:, is_ground] = _colour_ground(scene, ground)
    colours[:, is_sky] = _colour_sky(scene, rays[:, is_sky])
    is_solid = ~(is_ground | is_sky)
    solid = hits.solid[is_solid]
    colours[:, is_solid] = _colour_solids(scene, hits.points(origin, rays, is_solid), solid)
    colours *= np.array(look.light, dtype=np.float32)[:, None, None]
    height, width = pose.hw
    image = colours.reshape(3, height, RAYS, width, RAYS).mean(axis=(2, 4))
    image += noise.noise(image.shape) * np.float32(PIXEL_NOISE_STD)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def scan(scene: Scene) -> Float[np.ndarray, "n 5"]:
    """Return the LiDAR points: x, y, z in metres, intensity (0 to 255) and age in seconds (0)."""
    draw = stream(f"{scene.id}/lidar")
    up = np.radians(np.linspace(*BEAMS_DEG, BEAMS))[:, None]
    around = np.radians(np.arange(AZIMUTHS) * (360 / AZIMUTHS))[None]
    flat = np.cos(up)
    rays = np.stack(np.broadcast_arrays(flat * np.cos(around), flat * np.sin(around), np.sin(up)))
    rays = rays.astype(np.float32)
    origin = np.array(LIDAR_M)
    hits = cast(scene.solids, origin, rays)
    hits = Hits(hits.distance + draw.noise(hits.distance.shape) * RANGE_NOISE_M, hits.solid)
    is_near = hits.distance <= RANGE_M
    points, solid = hits.points(origin, rays, is_near).T, hits.solid[is_near]
    is_ground = solid == GROUND
    brightness = np.array([np.mean(one.colour) for one in scene.solids] + [0], dtype=np.float32)
    intensity = 10 + 40 * brightness[solid]
    intensity[is_ground] = INTENSITY[scene.ground.materials_at(points[is_ground, :2])]
    intensity *= 1 + np.float32(0.1) * draw.noise(intensity.shape)
    age = np.zeros_like(intensity)
    return np.concatenate([points, intensity[:, None], age[:, None]], axis=1).astype(np.float32)


def _colour_ground(scene: Scene, points: np.ndarray) -> np.ndarray:
    look = scene.look
    colours = look.materials[scene.ground.materials_at(points[:2].T)].T
    x, y = (np.floor(one / TEXTURE_M).astype(np.int32) % TEXTURE_SIZE for one in points[:2])
    return colours * (1 + np.float32(TEXTURE_STRENGTH) * look.texture[x, y])


def _colour_sky(scene: Scene, rays: np.ndarray) -> np.ndarray:
    low, high = (np.array(one, dtype=np.float32)[:, None] for one in scene.look.sky)
    rise = np.clip(2 * rays[2], 0, 1)
    return low + (high - low) * rise


def _colour_solids(scene: Scene, points: np.ndarray, solid: Int[np.ndarray, " n"]) -> np.ndarray:
    """Return the colours of points on boxes; sides that face the sun are brighter."""
    if len(solid) == 0:
        return points
    rows = [
        (s.x_m, s.y_m, *s.half_m, *s.z_m, math.cos(s.heading), math.sin(s.heading), *s.colour)
        for s in scene.solids
    ]
    x, y, half_u, half_v, low, high, c, s, *colour = np.array(rows, dtype=np.float32).T[:, solid]
    dx, dy = points[0] - x, points[1] - y
    u, v, w = (c * dx + s * dy) / half_u, (c * dy - s * dx) / half_v, points[2] - low
    w = 2 * w / (high - low) - 1
    is_end, is_top = np.abs(u) > np.abs(v), np.abs(w) >= np.maximum(np.abs(u), np.abs(v))
    sun_x, sun_y, sun_z = scene.look.sun
    facing = np.where(
        is_end, np.sign(u) * (c * sun_x + s * sun_y), np.sign(v) * (c * sun_y - s * sun_x)
    )
    facing = np.where(is_top, np.sign(w) * sun_z, facing)
    return np.stack(colour) * (0.6 + 0.5 * np.maximum(facing, 0)).astype(np.float32)
