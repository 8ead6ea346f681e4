"""Keypoints and boxes of people agree with the visible pixels."""

import functools

import numpy as np

from diffsight.rooms import Rendering, render_scene
from diffsight.rooms.people import _bound_ellipsoid

INDICES = (100, 104, 106, 109, 116, 118, 411, 413, 421)


@functools.cache
def rendering(index: int) -> Rendering:
    return render_scene(index, size=96, labels=("instance",))


def list_people() -> list[tuple[int, int]]:
    return [(i, k) for i in INDICES for k in range(len(rendering(i).people))]


def test_the_scenes_show_people() -> None:
    assert len(list_people()) >= 6


def test_keypoints_lie_inside_their_box_and_the_image() -> None:
    for index, k in list_people():
        person = rendering(index).people[k]
        x0, y0, x1, y1 = person.box
        assert -0.5 <= x0 < x1 <= 95.5
        assert -0.5 <= y0 < y1 <= 95.5
        x, y, seen = person.keypoints.T
        assert set(seen) <= {0, 1, 2}
        inside = seen > 0
        assert (x[inside] >= x0).all()
        assert (x[inside] <= x1).all()
        assert (y[inside] >= y0).all()
        assert (y[inside] <= y1).all()
        assert not person.keypoints[~inside].any()


def test_boxes_contain_all_visible_pixels_and_are_tight_for_uncovered_people() -> None:
    tight = 0
    for index, k in list_people():
        person = rendering(index).people[k]
        mask = rendering(index).labels["instance"] == person.instance
        assert int(mask.sum()) == person.visible_px > 0
        rows, columns = np.nonzero(mask)
        seen = np.array([columns.min(), rows.min(), columns.max(), rows.max()], dtype=float)
        x0, y0, x1, y1 = person.box
        assert x0 <= seen[0]
        assert y0 <= seen[1]
        assert x1 >= seen[2]
        assert y1 >= seen[3]
        tight += bool(np.abs(seen - np.array(person.box)).max() <= 1.01)
    assert tight >= 2


def test_visible_keypoints_lie_on_the_person() -> None:
    hits, count = 0, 0
    for index, k in list_people():
        rendered = rendering(index)
        person = rendered.people[k]
        for x, y, seen in person.keypoints:
            if seen == 2:
                count += 1
                hits += rendered.labels["instance"][round(y), round(x)] == person.instance
    assert count > 40
    # the nearest pixel to a keypoint on the outline can lie outside the body
    assert hits / count > 0.93


def test_the_bounds_of_a_ball_are_those_of_its_tangents() -> None:
    """A ball of radius r at distance d on the axis has the bounds r / sqrt(d^2 - r^2)."""
    low, high = _bound_ellipsoid(np.array([0.0, 0.0, 2.0]), np.eye(3) * 0.5)
    np.testing.assert_allclose(high, 0.5 / np.sqrt(4 - 0.25))
    np.testing.assert_allclose(low, -high)
