"""Sampled street scenes: solids on suitable ground, the vehicle, and dividers."""

import numpy as np

from diffsight.streets.scene import VEHICLE, sample_scene, stream


def test_each_solid_stands_on_one_class_and_none_overlap() -> None:
    for index in range(3):
        scene = sample_scene("train", 0, index, cells=50, cell_m=0.5)
        assert len(scene.solids) > 30
        on_ground = [solid for solid in scene.solids if solid.z_m[0] == 0]
        points = np.concatenate([solid.footprint(7) for solid in on_ground])
        assert not VEHICLE.covers(points, 0.2).any()
        classes = scene.ground.classes_at(points).reshape(len(on_ground), 49, 6)
        # all points below a solid have the same class: car park, road, walkway or none
        assert (classes == classes[:, :1]).all()
        assert (classes.sum(axis=2) <= 1).all()
        for i, solid in enumerate(on_ground):
            there = solid.covers(points, 0.01).reshape(len(on_ground), 49)
            assert there.any(axis=1).nonzero()[0].tolist() == [i]


def test_the_vehicle_is_on_the_right_half_of_its_road() -> None:
    for index in range(10):
        ground = sample_scene("test", 0, index, cells=50, cell_m=0.5).ground
        _, across = ground.roads[0].local(np.zeros((1, 2)))
        assert -ground.roads[0].half_width_m + 0.9 < across[0] < -0.9


def test_the_cell_size_changes_only_the_width_of_dividers() -> None:
    fine, coarse = (sample_scene("train", 2, 4, cells=8, cell_m=m) for m in (0.1, 2.0))
    assert fine.solids == coarse.solids
    assert fine.ground.roads == coarse.ground.roads
    assert (fine.ground.line_m, coarse.ground.line_m) == (0.3, 2.0)


def test_noise_has_mean_zero_and_standard_deviation_one() -> None:
    noise = stream("a").noise((200, 200))
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
