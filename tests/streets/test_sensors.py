"""Images and LiDAR points agree with the map and the matrices of the sensors."""

import numpy as np
import pytest
import torch

from diffsight.rig import Rig
from diffsight.streets import CLASSES, Streets
from diffsight.streets.ground import GAP, KERB
from diffsight.streets.scene import Scene, sample_scene
from diffsight.streets.sensors import CAMERAS, camera_poses, scan
from diffsight.streets.solids import GROUND, cast

HW = (64, 176)
FINE = 4  # rays per pixel in each direction


def scene_and_rig(index: int) -> tuple[Scene, Rig]:
    rig = Streets("train", 100, HW)[index].rig
    assert rig is not None
    return sample_scene("train", 0, index, cells=50, cell_m=0.5), rig


def visible_materials(scene: Scene, camera: int) -> np.ndarray:
    """Return the material of the ground that every ray hits; -1 where it hits something else."""
    pose = camera_poses(scene, HW)[camera]
    rays, origin = pose.rays(FINE), pose.to_vehicle[:3, 3]
    hits = cast(scene.solids, origin, rays)
    materials = np.full(rays.shape[1:], -1)
    is_ground = hits.solid == GROUND
    points = hits.points(origin, rays, is_ground)
    materials[is_ground] = scene.ground.materials_at(points[:2].T)
    return materials


@pytest.mark.parametrize("camera", range(len(CAMERAS)), ids=list(CAMERAS))
def test_camera_matrices_project_ground_points_to_the_pixels_that_show_them(camera: int) -> None:
    scene, rig = scene_and_rig(2)
    x, y = np.random.default_rng(0).uniform(-8, 8, (2, 3000))
    points = torch.from_numpy(np.stack([x, y, 0 * x, 0 * x + 1])).float()
    u, v, depth, _ = rig.intrinsics[0, camera] @ rig.camera_to_vehicle[0, camera].inverse() @ points
    column, row = (FINE * (one / depth + 0.5) - 0.5 for one in (u, v))
    column, row = column.round().long().numpy(), row.round().long().numpy()
    inside = (depth.numpy() > 1) & (column > 0) & (column < FINE * HW[1] - 1)
    inside &= (row > 0) & (row < FINE * HW[0] - 1)
    assert inside.sum() > 100
    seen = visible_materials(scene, camera)
    materials = scene.ground.materials_at(np.stack([x, y], axis=1))
    compared = 0
    for i in np.flatnonzero(inside):
        around = seen[row[i] - 1 : row[i] + 2, column[i] - 1 : column[i] + 2]
        if (around == -1).any():  # hidden by a solid, or next to a hidden pixel
            continue
        assert materials[i] in around
        r, c = row[i] // FINE, column[i] // FINE
        whole = seen[r * FINE : (r + 1) * FINE, c * FINE : (c + 1) * FINE]
        if (whole == materials[i]).all():
            compared += 1
            colour = rig.images[0, camera, :, r, c].numpy() / 255
            expected = np.clip(scene.look.materials[materials[i]] * scene.look.light, 0, 1)
            assert np.abs(colour - expected).max() < 0.13
    assert compared > 50


def test_six_cameras_overlap_and_cover_all_directions() -> None:
    _, rig = scene_and_rig(0)
    angles = np.radians(np.arange(0, 360, 3))
    far = torch.from_numpy(np.stack([40 * np.cos(angles), 40 * np.sin(angles)])).float()
    points = torch.cat([far, torch.ones(2, far.shape[1])])
    views = rig.intrinsics[0] @ rig.camera_to_vehicle[0].inverse() @ points
    column = views[:, 0] / views[:, 2]
    is_seen = (views[:, 2] > 0) & (column > -0.5) & (column < HW[1] - 0.5)
    assert is_seen.any(dim=0).all()
    assert (is_seen.sum(dim=0) == 2).any()
    directions = rig.camera_to_vehicle[0, :, :2, 2]
    degrees = torch.atan2(directions[:, 1], directions[:, 0]).rad2deg()
    assert list(CAMERAS) == [
        "front",
        "front right",
        "front left",
        "back",
        "back left",
        "back right",
    ]
    expected = torch.tensor([0.0, -55, 55, 180, 110, -110])
    assert ((degrees - expected + 180) % 360 - 180).abs().max() < 2
    turns = rig.camera_to_vehicle[0, :, :3, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(6, 3, 3), rtol=0, atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(6))


def test_lidar_points_lie_on_the_ground_or_on_boxes() -> None:
    for index in range(3):
        scene = sample_scene("train", 0, index, cells=50, cell_m=0.5)
        points = scan(scene)
        assert points.shape[1] == 5
        assert points.dtype == np.float32
        assert len(points) > 8000
        assert np.linalg.norm(points[:, :3] - [0, 0, 1.8], axis=1).max() < 60.001
        assert not points[:, 4].any()
        is_on_box, is_in_box = np.zeros((2, len(points)), dtype=bool)
        z = points[:, 2]
        for solid in scene.solids:
            for margin, there in ((0.1, is_on_box), (-0.1, is_in_box)):
                low, high = solid.z_m[0] - margin, solid.z_m[1] + margin
                there |= solid.covers(points[:, :2], margin) & (z > low) & (z < high)
        assert not is_in_box.any()
        assert np.abs(z[~is_on_box]).max() < 0.1
        assert 0.1 < is_on_box.mean() < 0.9


def test_paint_is_brighter_than_asphalt_for_the_lidar() -> None:
    scene = sample_scene("train", 0, 1, cells=50, cell_m=0.5)
    points = scan(scene)
    ground = points[np.abs(points[:, 2]) < 0.03]
    materials = scene.ground.materials_at(ground[:, :2])
    paint = np.isin(materials, [1 + CLASSES.index(n) for n in ("ped_crossing", "divider")])
    assert paint.sum() > 20
    intensity = ground[:, 3]
    assert np.median(intensity[paint]) > 3 * np.median(intensity[(materials == 1)])
    assert np.median(intensity[materials == GAP]) < 15
    assert np.median(intensity[materials == KERB]) > 20
