"""Classes of positions on the ground, and maps in a changed frame."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffsight.rig import MapSource
from diffsight.streets import CLASSES
from diffsight.streets.ground import GAP, GRASS, KERB, Arm, CarPark, Ground, Road
from diffsight.streets.scene import sample_scene

# a road along the x axis, and one that begins on it and leads to the left
ROADS = (
    Road(0.0, 0.0, 0.0, 5.0, 2.0, (0.0,), has_parking=False),
    Road(20.0, 0.0, math.pi / 2, 4.0, 3.0, (0.0,), has_parking=False, begin_m=0.0),
)
ARMS = (Arm(0, 1, 1, 3.0, stops=True), Arm(0, 1, -1, 0.0, stops=False))
GROUND = Ground(ROADS, ARMS, (CarPark(0, -1, -20.0, 0.0, 10.0),), 0.4, 50, 0.5)


def classes_at(x: float, y: float) -> set[str]:
    (row,) = GROUND.classes_at(np.array([[x, y]], dtype=np.float64))
    return {name for name, there in zip(CLASSES, row, strict=True) if there}


def make_change(matrix: list[list[float]], scale: float = 1.0) -> Tensor:
    change = torch.eye(4)
    change[:2, :2] = scale * torch.tensor(matrix)
    return change


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0, 3, {"drivable_area"}),
        (0, 0.1, {"drivable_area", "divider"}),
        (0, 6, {"walkway"}),
        (0, 7.1, set()),
        (20, -6, {"walkway"}),  # the second road begins at the first one
        (22, 6, {"drivable_area"}),
        (24.5, 8, {"walkway"}),
        # there are no lines in the junction; the second road is at x = 20
        (16, 0, {"drivable_area"}),
        (15.1, 0, {"drivable_area"}),
        (14, 0, {"drivable_area", "ped_crossing"}),
        (14, -6, {"walkway"}),
        # the stop line is only on the right side, for traffic towards the junction
        (11, -2, {"drivable_area", "stop_line"}),
        (11, 2, {"drivable_area"}),
        (10, 0, {"drivable_area", "divider"}),
        (26, 0, {"drivable_area", "divider"}),
        (-5, -8, {"carpark_area"}),
        (-5, -6, {"walkway"}),
        (-10, -6, {"drivable_area"}),  # the entrance of the car park
        (-5, -17.1, set()),
        (-20.1, -8, set()),
    ],
)
def test_positions_have_the_expected_classes(x: float, y: float, expected: set[str]) -> None:
    assert classes_at(x, y) == expected


def test_the_visible_material_is_that_of_the_topmost_class() -> None:
    scene = sample_scene("train", 0, 3, cells=50, cell_m=0.5)
    points = np.random.default_rng(0).uniform(-25, 25, (20_000, 2))
    classes, materials = scene.ground.classes_at(points), scene.ground.materials_at(points)
    assert (classes.any(axis=1) == (materials != GRASS)).all()
    for material, name in ((GAP, "ped_crossing"), (KERB, "walkway")):
        rows = classes[materials == material]
        assert len(rows)
        assert rows[:, CLASSES.index(name)].all()
    for i, name in enumerate(CLASSES):
        assert classes[materials == 1 + i, i].all(), name
        assert name == "drivable_area" or not classes[materials == 1, i].any()


def test_the_map_has_the_classes_at_the_centres_of_cells() -> None:
    ground = sample_scene("val", 0, 5, cells=12, cell_m=2.0).ground
    assert isinstance(ground, MapSource)
    drawn = ground.draw(torch.eye(4))
    assert drawn.shape == (6, 12, 12)
    for i in range(12):
        for j in range(12):
            centre = np.array([[-11.0 + 2 * i, -11.0 + 2 * j]])
            assert drawn[:, i, j].tolist() == ground.classes_at(centre)[0].tolist()


def test_the_map_follows_a_change_of_the_vehicle_frame() -> None:
    ground = sample_scene("train", 0, 1, cells=50, cell_m=0.5).ground
    label = ground.draw(torch.eye(4))
    # the new x axis is the old y axis: what was to the left is now ahead
    quarter = ground.draw(make_change([[0, 1], [-1, 0]]))
    assert torch.equal(quarter, label.rot90(-1, (1, 2)))
    assert torch.equal(quarter, label.transpose(1, 2).flip(2))
    assert torch.equal(ground.draw(make_change([[1, 0], [0, -1]])), label.flip(2))
    assert torch.equal(ground.draw(make_change([[-1, 0], [0, 1]])), label.flip(1))
    moved = torch.eye(4)
    moved[0, 3] = 2.0
    assert torch.equal(ground.draw(moved)[:, 4:], label[:, :-4])
    # at twice the scale, cells have half the size in the original frame
    coarse = sample_scene("train", 0, 1, cells=50, cell_m=0.5).ground
    large = coarse.draw(make_change([[1, 0], [0, 1]], scale=2.0))
    small = (np.arange(50) + 0.5 - 25) * 0.25
    cells = np.stack(np.meshgrid(small, small, indexing="ij"), axis=-1).reshape(-1, 2)
    assert torch.equal(large.bool().flatten(1), torch.from_numpy(ground.classes_at(cells).T))
