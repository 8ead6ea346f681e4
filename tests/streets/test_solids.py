"""Boxes, and the first hits of rays."""

import math

import numpy as np
import pytest

from diffsight.streets.solids import GROUND, SKY, Solid, cast

ORIGIN = np.array([0.0, 0.0, 1.5])
NO_COLOUR = (0.0, 0.0, 0.0)
BOX = Solid(10.0, 0.0, 0.0, (2.0, 1.0), (0.0, 2.0), NO_COLOUR)


def make_ray(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z], dtype=np.float32).reshape(3, 1, 1)


@pytest.mark.parametrize(
    ("direction", "distance", "solid"),
    [
        ((1, 0, 0), 8, 0),
        ((0.5, 0, 0), 16, 0),
        ((1, 0.1, 0), 8, 0),
        ((1, 0.2, 0), math.inf, SKY),
        ((-1, 0, -0.5), 3, GROUND),
        ((1, 0, -0.5), 3, GROUND),
        ((1, 0, 0.05), 8, 0),
        ((1, 0, 0.1), math.inf, SKY),
    ],
)
def test_a_ray_hits_the_nearest_surface(
    direction: tuple[float, float, float], distance: float, solid: int
) -> None:
    hits = cast((BOX,), ORIGIN, make_ray(*direction))
    assert hits.distance.item() == pytest.approx(distance, rel=1e-5)
    assert hits.solid.item() == solid


def test_rays_without_boxes_hit_ground_or_sky() -> None:
    hits = cast((), ORIGIN, np.concatenate([make_ray(1, 0, -1), make_ray(1, 0, 1)], axis=1))
    assert hits.solid.ravel().tolist() == [GROUND, SKY]


def test_no_box_lies_between_the_origin_and_the_hit() -> None:
    """Twelve rotated boxes are tested with rays in all directions."""
    random = np.random.default_rng(1)
    solids = [
        Solid(
            *(random.uniform(4, 20) * np.array([math.cos(a), math.sin(a)])).tolist(),
            random.uniform(-3, 3),
            (random.uniform(0.2, 2), random.uniform(0.2, 2)),
            (random.uniform(0, 1), random.uniform(1.5, 4)),
            NO_COLOUR,
        )
        for a in np.linspace(0, 2 * math.pi, 12, endpoint=False).tolist()
    ]
    around, up = np.meshgrid(np.linspace(-3, 3, 60), np.linspace(-0.4, 0.3, 20))
    rays = np.stack([np.cos(around), np.sin(around), up]).astype(np.float32)
    hits = cast(solids, ORIGIN, rays)
    assert len(np.unique(hits.solid)) > 8

    def is_inside(solid: Solid, at: np.ndarray, margin: float) -> np.ndarray:
        points = ORIGIN[:, None, None] + rays * at
        there = solid.covers(points[:2].reshape(2, -1).T, margin).reshape(at.shape)
        return there & (points[2] > solid.z_m[0] - margin) & (points[2] < solid.z_m[1] + margin)

    end = np.minimum(hits.distance, 30)
    for i, solid in enumerate(solids):
        for part in np.linspace(0, 1, 100).tolist():
            assert not is_inside(solid, part * end, -0.01).any()
        assert is_inside(solid, end, 0.01)[hits.solid == i].all()


def test_a_footprint_is_a_grid_below_its_box() -> None:
    solid = Solid(3.0, -2.0, 0.7, (2.0, 1.0), (0.0, 2.0), NO_COLOUR)
    points = solid.footprint(5)
    assert len(points) == 25
    assert solid.covers(points, 1e-6).all()
    assert solid.covers(points, -0.1).sum() == 9
    assert points.mean(axis=0) == pytest.approx([3, -2])
