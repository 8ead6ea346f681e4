"""Sampled scenes: random streams, rooms, and furniture that does not overlap."""

import itertools

import numpy as np
import pytest

from diffsight.rooms import CLASSES, ROOM_TYPES
from diffsight.rooms.draw import stream
from diffsight.rooms.layout import overlap
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Scene

SCENES = [sample_scene("train", 0, i) for i in range(40)]
# things that lie flat, hang, or are part of the building
NOT_STANDING = {"wall", "floor", "ceiling", "window", "curtain", "picture", "door", "rug"}


def standing_things(scene: Scene) -> list[int]:
    """Return the indices of the things that stand on the floor."""
    return [
        i
        for i, thing in enumerate(scene.things)
        if thing.kind not in NOT_STANDING and thing.support is None and thing.position[1] == 0
    ]


def test_random_streams_depend_on_every_part_of_their_name() -> None:
    names = itertools.product(("train", "val", "test"), (0, 1), (0, 1), ("room", "light"))
    firsts = [stream(*name).uniform() for name in names]
    assert len(set(firsts)) == len(firsts)
    assert stream("train", 0, 0, "room").uniform() == firsts[0]


def test_random_numbers_have_the_expected_range() -> None:
    draw = stream("train", 0, 0, "test")
    assert {draw.integer(2, 4) for _ in range(100)} == {2, 3, 4}
    assert {draw.choice("abc") for _ in range(100)} == set("abc")
    assert sorted(draw.shuffled(range(9))) == list(range(9))
    noise = draw.noise((3, 100, 100))
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_rooms_have_the_documented_sizes_and_types() -> None:
    assert {scene.room_type for scene in SCENES} == set(ROOM_TYPES)
    for scene in SCENES:
        x, y, z = (2 * half for half in scene.half_size)
        assert 2.5 <= x <= 7
        assert 2.5 <= z <= 7
        assert 2.3 <= y <= 3.2
        assert 1.0 <= scene.view.position[1] <= 1.9
        assert 50 <= np.degrees(scene.view.fov_rad) <= 80
        assert 1 <= len(scene.lights) <= 2


def test_every_class_occurs_in_160_scenes() -> None:
    scenes = [sample_scene("val", 0, i) for i in range(120)]
    kinds = {thing.kind for scene in (*SCENES, *scenes) for thing in scene.things}
    assert kinds == set(CLASSES)


def test_rotations_are_orthonormal() -> None:
    for scene in SCENES:
        for primitive in scene.primitives:
            square = primitive.rotation.T @ primitive.rotation
            np.testing.assert_allclose(square, np.eye(3), atol=1e-9)


def test_every_primitive_is_part_of_its_thing() -> None:
    for scene in SCENES:
        for index, thing in enumerate(scene.things):
            part = scene.primitives[thing.first : thing.first + thing.count]
            assert part
            assert {p.thing for p in part} == {index}
        assert sum(thing.count for thing in scene.things) == len(scene.primitives)


def test_things_on_the_floor_stand_apart_and_inside_the_room() -> None:
    for scene in SCENES:
        spots = []
        for index in standing_things(scene):
            thing = scene.things[index]
            x, _, z = thing.position
            assert abs(x) < scene.half_size[0]
            assert abs(z) < scene.half_size[2]
            spots.append((x, z, thing.half_x, thing.half_z, thing.yaw))
        assert not any(overlap(a, b) for a, b in itertools.combinations(spots, 2))


def test_small_things_stand_on_their_support() -> None:
    carried = 0
    for scene in SCENES:
        for thing in scene.things:
            if thing.support is None or thing.kind == "person":
                continue
            carrier = scene.things[thing.support]
            carried += 1
            assert thing.position[1] <= carrier.height + 0.05
            foot = (thing.position[0], thing.position[2], 0.01, 0.01, 0.0)
            below = (*carrier.position[::2], carrier.half_x, carrier.half_z, carrier.yaw)
            assert overlap(foot, below)
    assert carried > 40


def test_overlaps_of_rotated_rectangles_are_detected() -> None:
    a = (0.0, 0.0, 1.0, 0.2, 0.0)
    assert overlap(a, (1.1, 0.0, 0.2, 0.2, 0.0))
    assert not overlap(a, (1.3, 0.0, 0.2, 0.2, 0.0))
    # a square that is rotated by 45 degrees reaches further with its corner
    assert overlap(a, (1.25, 0.0, 0.2, 0.2, np.pi / 4))
    assert not overlap(a, (0.0, 0.6, 0.5, 0.3, 0.0))
    assert overlap(a, (0.0, 0.6, 0.5, 0.3, np.pi / 2))
