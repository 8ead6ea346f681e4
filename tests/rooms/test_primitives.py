"""Intersections, normals and curvatures agree with their definitions."""

import numpy as np
import pytest

from diffsight.rooms.materials import make_plain
from diffsight.rooms.primitives import compute_curvatures, compute_normals, intersect, points_on
from diffsight.rooms.world import Primitive

SHAPES = {
    "plane": ("plane", (1, 1, 1), (True, True)),
    "box": ("box", (0.5, 0.3, 0.7), (True, True)),
    "ellipsoid": ("ellipsoid", (0.5, 0.3, 0.7), (True, True)),
    "sphere": ("ellipsoid", (0.4, 0.4, 0.4), (True, True)),
    "cylinder": ("frustum", (0.4, 0.4, 0.6), (True, True)),
    "cone": ("frustum", (0.5, 0.0, 0.6), (True, True)),
    "pot": ("frustum", (0.3, 0.5, 0.4), (True, False)),
    "capsule": ("capsule", (0.25, 0.5, 0.0), (True, True)),
}


def make_primitive(name: str) -> Primitive:
    shape, size, caps = SHAPES[name]
    return Primitive(shape, np.zeros(3), np.eye(3), size, make_plain((0.5, 0.5, 0.5)), 0, caps)


def make_rays(count: int = 4000) -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(0)
    origin = generator.normal(size=(3, count))
    origin = 2.5 * origin / np.sqrt((origin**2).sum(axis=0))
    target = generator.uniform(-0.6, 0.6, size=(3, count))
    return list(origin), list(target - origin)


def is_inside(name: str, p: np.ndarray) -> np.ndarray:
    """Return whether points are inside a solid, from its definition."""
    shape, size, _ = SHAPES[name]
    x, y, z = p
    if shape == "plane":
        return y <= 0
    if shape == "box":
        return (abs(x) <= size[0]) & (abs(y) <= size[1]) & (abs(z) <= size[2])
    if shape == "ellipsoid":
        return (x / size[0]) ** 2 + (y / size[1]) ** 2 + (z / size[2]) ** 2 <= 1
    if shape == "capsule":
        return x**2 + (y - np.clip(y, -size[1], size[1])) ** 2 + z**2 <= size[0] ** 2
    radius = size[0] + (size[1] - size[0]) * (y + size[2]) / (2 * size[2])
    return (abs(y) <= size[2]) & (x**2 + z**2 <= radius**2)


@pytest.mark.parametrize("name", [n for n in SHAPES if n != "pot"])
def test_the_first_hit_agrees_with_marching_along_the_ray(name: str) -> None:
    origin, direction = make_rays()
    t = intersect(make_primitive(name), origin, direction)
    steps = np.linspace(0, 3, 1501)
    points = np.stack(origin)[..., None] + np.stack(direction)[..., None] * steps
    inside = is_inside(name, points)
    starts_outside = ~inside[:, 0]
    first = np.where(inside.any(axis=1), steps[inside.argmax(axis=1)], np.inf)
    # a ray that only touches the solid can be missed between two steps
    missed = np.isinf(first) & np.isfinite(t) & (t < 3)
    assert missed.mean() < 0.02
    both = starts_outside & np.isfinite(first) & ~missed
    assert both.sum() > 300
    assert np.isfinite(t[both]).all()
    grazing = np.abs(t[both] - first[both]) > 0.0021
    assert grazing.mean() < 0.01


@pytest.mark.parametrize("name", SHAPES)
def test_normals_have_length_one_and_face_the_ray_unless_the_solid_is_open(name: str) -> None:
    origin, direction = make_rays()
    solid = make_primitive(name)
    t = intersect(solid, origin, direction)
    hit = np.isfinite(t)
    points = points_on([o[hit] for o in origin], [d[hit] for d in direction], t[hit])
    n = np.stack(compute_normals(solid, points))
    np.testing.assert_allclose((n**2).sum(axis=0), 1, atol=1e-9)
    facing = (n * np.stack(direction)[:, hit]).sum(axis=0) < 1e-9
    assert facing.all() == (name != "pot")


@pytest.mark.parametrize("name", [n for n in SHAPES if n not in ("plane", "pot")])
def test_normals_point_out_of_the_solid(name: str) -> None:
    """A step along the normal leaves the solid, a step against it enters."""
    origin, direction = make_rays()
    solid = make_primitive(name)
    t = intersect(solid, origin, direction)
    hit = np.isfinite(t)
    points = np.stack(points_on([o[hit] for o in origin], [d[hit] for d in direction], t[hit]))
    n = np.stack(compute_normals(solid, tuple(points)))
    assert not is_inside(name, points + 1e-6 * n).any()
    assert is_inside(name, points - 1e-6 * n).mean() > 0.999


def test_the_curvature_of_a_sphere_is_exact_and_that_of_planes_zero() -> None:
    points = (np.array([0.4, 0.0]), np.array([0.0, 0.0]), np.array([0.0, -0.4]))
    first, second = compute_curvatures(make_primitive("sphere"), points)
    assert (first == 1 / 0.4).all()
    assert (second == 1 / 0.4).all()
    for name in ("plane", "box"):
        assert not np.any(compute_curvatures(make_primitive(name), points))


def test_curvatures_of_cylinder_cone_and_capsule() -> None:
    zero = np.array([0.0])
    side = (np.array([0.4]), zero, zero)
    assert [float(k[0]) for k in compute_curvatures(make_primitive("cylinder"), side)] == [
        1 / 0.4,
        0.0,
    ]
    # half-way up the cone the radius is 0.25; its side leans by atan(0.5 / 1.2)
    k, flat = compute_curvatures(make_primitive("cone"), (np.array([0.25]), zero, zero))
    assert float(k[0]) == pytest.approx(np.cos(np.arctan(0.5 / 1.2)) / 0.25)
    assert float(flat[0]) == 0
    ball, bar = np.array([0.75]), np.array([0.2])
    assert [
        float(v[0]) for v in compute_curvatures(make_primitive("capsule"), (zero, ball, zero))
    ] == [
        4,
        4,
    ]
    assert [
        float(v[0]) for v in compute_curvatures(make_primitive("capsule"), (ball, bar, zero))
    ] == [
        4,
        0,
    ]


def test_curvatures_at_a_pole_of_an_ellipsoid() -> None:
    """At the end of the x axis the curvatures are a / b^2 and a / c^2."""
    a, b, c = 0.5, 0.3, 0.7
    zero = np.array([0.0])
    first, second = compute_curvatures(make_primitive("ellipsoid"), (np.array([a]), zero, zero))
    assert float(first[0]) == pytest.approx(a / b**2)
    assert float(second[0]) == pytest.approx(a / c**2)


@pytest.mark.parametrize("name", SHAPES)
def test_single_precision_rays_give_single_precision_distances(name: str) -> None:
    origin, direction = make_rays(50)
    t = intersect(
        make_primitive(name),
        [o.astype(np.float32) for o in origin],
        [d.astype(np.float32) for d in direction],
    )
    assert t.dtype == np.float32
