"""Labels agree with one another and with their definitions."""

import functools

import numpy as np
import pytest

from diffsight.rooms import CLASSES, LABELS, Rendering, render_scene
from diffsight.rooms.filters import edge_occlusion, edge_texture, keypoints2d
from diffsight.rooms.labels import MAX_CURVATURE_PER_M, Geometry
from diffsight.rooms.scene import sample_scene

INDICES = (0, 4, 8, 9, 10, 106)
GEOMETRIC = tuple(
    n for n in LABELS if n not in ("semantic", "instance", "edge_texture", "keypoints2d")
)


@functools.cache
def rendering(index: int) -> Rendering:
    return render_scene(index, size=(72, 96))


@pytest.mark.parametrize("index", INDICES)
def test_labels_have_the_documented_shapes_and_ranges(index: int) -> None:
    labels, valid = rendering(index).labels, rendering(index).valid
    channels = {"normals": 3, "points_m": 3, "principal_curvature_per_m": 2}
    for name in LABELS:
        value = labels[name]
        assert valid[name].shape == (72, 96)
        assert np.isfinite(value).all()
        if name in ("semantic", "instance"):
            assert value.dtype == np.int64
            assert value.shape == (72, 96)
        else:
            assert value.dtype == np.float32
            assert value.shape == (channels.get(name, 1), 72, 96)
    for name in ("reshading", "edge_occlusion", "edge_texture", "keypoints2d", "keypoints3d"):
        assert 0 <= labels[name].min() <= labels[name].max() <= 1
        assert labels[name].max() > 0
    kinds = np.array([CLASSES.index(kind) for kind in rendering(index).kinds])
    assert (kinds[labels["instance"]] == labels["semantic"]).all()


@pytest.mark.parametrize("index", INDICES)
def test_only_the_sky_and_the_tips_of_cones_are_invalid(index: int) -> None:
    labels, valid = rendering(index).labels, rendering(index).valid
    solid = valid["depth_m"]
    assert (labels["semantic"][~solid] == CLASSES.index("window")).all()
    for name in LABELS:
        if name not in GEOMETRIC:
            assert valid[name].all()
            continue
        assert not np.any(labels[name] * ~valid[name])
        if name != "principal_curvature_per_m":
            assert (valid[name] == solid).all()
    bends = valid["principal_curvature_per_m"]
    assert not (bends & ~solid).any()
    assert (bends == solid).mean() > 0.99
    assert np.abs(labels["principal_curvature_per_m"]).max() <= MAX_CURVATURE_PER_M


def test_some_scenes_show_the_sky() -> None:
    assert any(not rendering(i).valid["depth_m"].all() for i in INDICES)


@pytest.mark.parametrize("index", INDICES)
def test_depth_and_points_agree_with_the_camera(index: int) -> None:
    rendered = rendering(index)
    camera, solid = rendered.camera, rendered.valid["depth_m"]
    depth, (x, y, z) = rendered.labels["depth_m"][0], rendered.labels["points_m"]
    np.testing.assert_array_equal(z, depth)
    euclidean = np.sqrt(x**2 + y**2 + z**2)
    np.testing.assert_allclose(rendered.labels["euclidean_depth_m"][0], euclidean, rtol=1e-5)
    assert (rendered.labels["euclidean_depth_m"][0] >= depth).all()
    rows, columns = np.nonzero(solid)
    u = camera.fx_px * x[solid] / z[solid] + camera.cx_px
    v = camera.fy_px * y[solid] / z[solid] + camera.cy_px
    np.testing.assert_allclose(u, columns, atol=1e-3)
    np.testing.assert_allclose(v, rows, atol=1e-3)
    assert depth[solid].min() > 0.3
    assert depth[solid].max() < 10


@pytest.mark.parametrize("index", INDICES)
def test_the_depth_of_the_floor_is_that_of_its_plane(index: int) -> None:
    """A ray from height h hits the floor at the depth d with h + d * (rise of the ray) = 0."""
    rendered, view = rendering(index), sample_scene("train", 0, index).view
    camera = rendered.camera
    rows, columns = np.nonzero(rendered.labels["semantic"] == CLASSES.index("floor"))
    x, y = (columns - camera.cx_px) / camera.fx_px, (rows - camera.cy_px) / camera.fy_px
    rise = view.rotation[1, 0] * x + view.rotation[1, 1] * y + view.rotation[1, 2]
    expected = -view.position[1] / rise
    np.testing.assert_allclose(rendered.labels["depth_m"][0, rows, columns], expected, rtol=1e-6)


@pytest.mark.parametrize("index", INDICES)
def test_normals_agree_with_the_point_cloud(index: int) -> None:
    """The comparison uses pixels whose four neighbours lie on the same flat surface."""
    labels, valid = rendering(index).labels, rendering(index).valid
    n, points = labels["normals"].astype(float), labels["points_m"].astype(float)
    norm = np.sqrt((n**2).sum(axis=0))[valid["normals"]]
    np.testing.assert_allclose(norm, 1, atol=1e-6)
    facing = (n * points).sum(axis=0)[valid["normals"]]
    assert (facing < 1e-6).all()
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    measured = np.cross(down, across, axis=0)
    measured /= np.maximum(np.sqrt((measured**2).sum(axis=0)), 1e-12)
    middle = n[:, 1:-1, 1:-1]
    flat = valid["normals"][1:-1, 1:-1] & (
        np.abs(labels["principal_curvature_per_m"]).sum(0)[1:-1, 1:-1] == 0
    )
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        neighbour = n[:, dy : dy + 70, dx : dx + 94]
        flat &= np.abs(neighbour - middle).max(axis=0) < 1e-6
        offset = ((points[:, dy : dy + 70, dx : dx + 94] - points[:, 1:-1, 1:-1]) * middle).sum(
            axis=0
        )
        flat &= np.abs(offset) < 1e-4
    assert flat.sum() > 1500
    cosine = (measured * middle).sum(axis=0)[flat]
    assert cosine.min() > 0.999


@pytest.mark.parametrize("index", INDICES)
def test_reshading_is_the_cosine_of_normal_and_line_of_sight(index: int) -> None:
    labels = rendering(index).labels
    points = labels["points_m"].astype(float)
    cosine = -(labels["normals"] * points).sum(axis=0)
    distance = np.maximum(np.sqrt((points**2).sum(axis=0)), 1e-9)
    np.testing.assert_allclose(labels["reshading"][0], cosine / distance, atol=1e-5)


def test_balls_have_the_curvature_of_their_radius_and_planes_have_none() -> None:
    count = 0
    for index in (102, 105, 106):
        scene, rendered = sample_scene("train", 0, index), render_scene(index, size=96)
        curvature = rendered.labels["principal_curvature_per_m"]
        for i, thing in enumerate(scene.things):
            here = rendered.labels["instance"] == i
            if thing.kind in ("wall", "floor", "ceiling", "box", "book"):
                assert not curvature[:, here].any()
            elif thing.kind == "sphere" and here.any():
                radius = scene.primitives[thing.first].size[0]
                assert (curvature[:, here] == np.float32(1 / radius)).all()
                count += 1
    assert count >= 3


def test_the_inside_of_a_lamp_shade_has_negative_curvature() -> None:
    lowest = min(
        float(rendering(i).labels["principal_curvature_per_m"].min()) for i in (*INDICES, 1, 2, 3)
    )
    assert lowest < -2


def test_pixel_centres_do_not_depend_on_the_size() -> None:
    """Every third pixel of an image that is three times as large has the same ray."""
    scene = sample_scene("train", 0, 8)
    small, large = Geometry(scene, 64, 48), Geometry(scene, 192, 144)
    same = small.hits.primitive == large.hits.primitive[1::3, 1::3]
    assert same.mean() > 0.9995
    np.testing.assert_allclose(small.depth[same], large.depth[1::3, 1::3][same], rtol=1e-9)


def test_a_wide_image_shows_the_middle_rows_of_a_square_one() -> None:
    scene = sample_scene("train", 0, 4)
    square, wide = Geometry(scene, 96, 96), Geometry(scene, 64, 96)
    np.testing.assert_array_equal(square.depth[16:80], wide.depth)


def test_occlusion_edges_are_steps_in_depth_and_not_creases() -> None:
    y, x = np.mgrid[-8:9, -8:9] / 20.0
    ray = np.stack([x, y, np.ones_like(x)])
    facing = np.zeros((3, 17, 17))
    facing[2] = -1
    solid = np.ones((17, 17), dtype=bool)
    step = np.where(x < 0.02, 2.0, 3.0)
    edges = edge_occlusion(ray * step, facing, solid)
    np.testing.assert_allclose(edges[:, 8:10], 0.5)
    assert not edges[:, :8].any()
    assert not edges[:, 10:].any()
    # where two walls meet in a corner, depth does not jump
    angle = np.array([0.6, 0.0, -0.8])
    mirrored = np.array([-0.6, 0.0, -0.8])
    normals = np.where(x > 0, mirrored[:, None, None], angle[:, None, None])
    depth = 2.0 / (ray[2] + 0.75 * np.abs(x))
    edges = edge_occlusion(ray * depth, normals, solid)
    assert edges.max() < 1e-9


def test_a_ramp_has_constant_texture_edges_and_a_blob_has_a_keypoint() -> None:
    y, x = np.mgrid[-20:21, -20:21].astype(float)
    ramp = x / 100
    np.testing.assert_allclose(edge_texture(ramp)[5:-5, 5:-5], 0.01, rtol=1e-6)
    assert keypoints2d(ramp).max() < 1e-4
    # the response to a Gaussian blob of size s is s^4 sigma^4 / (s^2 + sigma^2)^4 at its centre
    size = 3.0
    blob = np.exp(-(x**2 + y**2) / (2 * size**2))
    response = keypoints2d(blob)
    assert np.unravel_index(response.argmax(), response.shape) == (20, 20)
    assert response.max() == pytest.approx(1 / 16, rel=0.12)


@pytest.mark.parametrize("index", INDICES)
def test_narf_interest_is_low_on_most_surfaces(index: int) -> None:
    """Points in the middle of a wall or a floor are no keypoints."""
    labels = rendering(index).labels
    interest, solid = labels["keypoints3d"][0], rendering(index).valid["depth_m"]
    assert np.median(interest[solid]) < 0.1
    assert interest.max() > 0.3
