"""Strokes are checked, and drawn as the page draws them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from tests.support_studio import stroke

from diffsight.errors import InputError
from diffsight.studio.strokes import LabelMap, Stroke, draw_strokes, parse_stroke

SIZE = (120, 90)  # width and height


def parsed(**changes: Any) -> Stroke:
    return parse_stroke({**stroke("a"), **changes}, [0, 1])


def distance(points: list[list[float]]) -> np.ndarray:
    """Return the distance of every pixel centre to a polyline."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    best = np.full(x.shape, np.inf)
    pairs = list(itertools.pairwise(points)) or [(points[0], points[0])]
    for (ax, ay), (bx, by) in pairs:
        dx, dy = bx - ax, by - ay
        t = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12)
        t = t.clip(0, 1)
        best = np.minimum(best, np.hypot(x - ax - t * dx, y - ay - t * dy))
    return best


@pytest.mark.parametrize("radius", [3.0, 7.5, 20.0])
def test_a_stroke_labels_the_pixels_within_its_radius(radius: float) -> None:
    points = [[20.0, 30.0], [70.0, 40.0], [80.0, 75.0]]
    labels = draw_strokes([parsed(points=points, radius=radius, value=1)], SIZE, SIZE[::-1])
    away = distance(points)
    assert labels.is_labelled[away < radius - 1.5].all()
    assert not labels.is_labelled[away > radius + 1.5].any()
    area = (away <= radius).sum()
    assert abs(labels.is_labelled.sum() - area) < 0.1 * area
    assert (labels.values[labels.is_labelled] == 1).all()


def test_a_thin_stroke_stays_connected_on_a_small_map() -> None:
    one = parsed(points=[[5, 5], [115, 80]], radius=0.5, value=1)
    labels = draw_strokes([one], SIZE, (18, 24))
    columns = labels.is_labelled.any(axis=0)
    assert columns[1:23].all()
    dot = parsed(points=[[60.3, 44.8]], radius=0.5)
    assert draw_strokes([dot], SIZE, (18, 24)).is_labelled.sum() == 1
    assert draw_strokes([dot], SIZE, (90, 120)).is_labelled[44, 60]


def test_later_strokes_cover_earlier_ones_and_undone_ones_are_left_out() -> None:
    first, second = parsed(value=0), parsed(value=1)
    erased = parsed(tool="erase", value=None, points=[[10, 10]])
    labels = draw_strokes([first, second, erased], SIZE, (90, 120))
    assert set(labels.values[labels.is_labelled]) == {1.0}
    assert not labels.is_labelled[10, 10]
    assert labels.is_erased[10, 10]
    assert labels.is_labelled[12, 29]
    without = draw_strokes([first, second.undone(True)], SIZE, (90, 120))
    assert set(without.values[without.is_labelled]) == {0.0}


def test_numbers_of_a_scalar_are_kept() -> None:
    one = parse_stroke(stroke("a", -2.75), None)
    labels = draw_strokes([one], SIZE, (90, 120))
    assert set(labels.values[labels.is_labelled]) == {np.float32(-2.75)}


def test_labels_over_others_fill_only_open_pixels() -> None:
    def row(values: list[float], labelled: list[int], erased: list[int]) -> LabelMap:
        planes = (np.array([values], np.float32), np.array([labelled]), np.array([erased]))
        return LabelMap(planes[0], planes[1] == 1, planes[2] == 1)

    over = row([5, 0, 0], [1, 0, 0], [0, 1, 0]).over(row([7, 7, 7], [1, 1, 1], [0, 0, 0]))
    assert over.values[over.is_labelled].tolist() == [5, 7]
    assert over.is_labelled.tolist() == [[True, False, True]]


BAD = [
    ({"tool": "spray"}, "tool"),
    ({"value": 2}, r"id of a class \(0, 1\)"),
    ({"value": True}, "id of a class"),
    ({"value": "0"}, "id of a class"),
    ({"value": 0.5}, "id of a class"),
    ({"value": None}, "id of a class"),
    ({"radius": 0}, "radius"),
    ({"radius": 1e9}, "radius"),
    ({"radius": "4"}, "radius"),
    ({"radius": math.nan}, "radius"),
    ({"points": []}, "points"),
    ({"points": "abc"}, "points"),
    ({"points": [[1, 2, 3]]}, "pairs"),
    ({"points": [1, 2]}, "pairs"),
    ({"points": [[math.nan, 1]]}, "finite"),
    ({"points": [[math.inf, 1]]}, "finite"),
    ({"points": [[10**400, 1]]}, "finite"),
    ({"points": [[1e9, 1]]}, r"is at \(1e\+09, 1\) px: send coordinates between"),
    ({"points": [[None, 1]]}, "finite"),
    ({"points": [[1, 2]] * 1_000_000}, "1,000,000 points"),
    ({"id": ""}, "id"),
    ({"id": "a/b"}, "id"),
    ({"id": 5}, "id"),
    ({"id": "x" * 65}, "id"),
    ({"tab": None}, "tab"),
    ({"more": 1}, "keys"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_strokes_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parsed(**change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [None, [], "x", 5, {}, {"id": "a"}])
def test_something_else_than_a_stroke_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="keys"):
        parse_stroke(data, [0])


def test_a_stroke_without_classes_asks_for_one() -> None:
    with pytest.raises(InputError, match="add a class first"):
        parse_stroke(stroke("a"), [])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e31, "3", True, None])
def test_bad_values_of_a_scalar_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="value of a stroke"):
        parse_stroke(stroke("a", 0) | {"value": value}, None)
