"""Captions, referring expressions, keypoints and boxes."""

import functools
import re

import numpy as np
import pytest

from diffsight.rooms import ROOM_TYPES, Rendering, Rooms, render_scene
from diffsight.rooms.language import article, look_around, noun, phrase
from diffsight.rooms.people import _ellipsoid_bounds
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Thing

INDICES = (100, 104, 106, 109, 116, 118, 411, 413, 421)


@functools.cache
def rendering(index: int) -> Rendering:
    return render_scene(index, size=96, labels=("instance", "depth_m"))


@pytest.mark.parametrize("index", INDICES)
def test_the_caption_names_the_room_and_things_that_are_there(index: int) -> None:
    found = rendering(index)
    assert found.room_type in ROOM_TYPES
    text = found.caption
    assert found.room_type in text
    known = ("table", "chair", "sofa", "bed", "shelf", "cabinet", "plant", "vase", "rug", "window")
    known += (
        "door",
        "oven",
        "sink",
        "toilet",
        "bathtub",
        "box",
        "cone",
        "cylinder",
        "refrigerator",
    )
    for kind in known:
        if re.search(rf"\b{kind}s?\b", text):
            assert kind in found.kinds, text
    assert "  " not in text
    assert text == text.strip()


@pytest.mark.parametrize("index", INDICES)
def test_expressions_fit_one_thing_that_is_seen(index: int) -> None:
    found = rendering(index)
    assert len(found.expressions) >= 5
    texts = [e.text for e in found.expressions]
    assert len(set(texts)) == len(texts)
    for expression in found.expressions:
        assert expression.mask.any()
        assert (expression.mask == (found.labels["instance"] == expression.instance)).all()
        thing = sample_scene("train", 0, index).things[expression.instance]
        assert noun(thing) in expression.text
        assert found.kinds[expression.instance] == thing.kind


@pytest.mark.parametrize("index", INDICES)
def test_expressions_are_true(index: int) -> None:
    """Places are checked on the masks of a picture, colours on the things."""
    found, scene = rendering(index), sample_scene("train", 0, index)
    instance, depth = found.labels["instance"], found.labels["depth_m"][0]
    seen = [s.index for s in look_around(scene, 96, 96)]
    middles = {i: np.nonzero(instance == i)[1].mean() for i in seen if (instance == i).any()}
    depths = {i: np.median(depth[instance == i]) for i in middles}
    for expression in found.expressions:
        own = expression.instance
        kind = scene.things[own].kind
        rivals = [i for i in middles if scene.things[i].kind == kind and i != own]
        if "leftmost" in expression.text:
            assert all(middles[own] < middles[i] for i in rivals)
        elif "rightmost" in expression.text:
            assert all(middles[own] > middles[i] for i in rivals)
        elif "nearest" in expression.text and kind != "window":
            assert all(depths[own] < depths[i] for i in rivals)
        elif " to the left of the " in expression.text:
            other = expression.text.split(" of the ")[1]
            anchors = [i for i in middles if noun(scene.things[i]) == other]
            assert len(anchors) == 1
            assert middles[own] < middles[anchors[0]]
        elif expression.text == f"the {noun(scene.things[own])}":
            assert not rivals


def test_expressions_do_not_change_with_the_size() -> None:
    small, large = (render_scene(104, size=s, labels=()) for s in (64, 160))
    assert [e.text for e in small.expressions] == [e.text for e in large.expressions]
    assert small.caption == large.caption


def test_phrases() -> None:
    def thing(kind: str, colour: str, look: str = "") -> Thing:
        return Thing(kind, colour, look, (0, 0, 0), 1.0, 1.0, 1.0, 0.0)

    assert phrase(thing("sofa", "red", "striped")) == "striped red sofa"
    assert phrase(thing("sofa", "red", "striped"), look=False) == "red sofa"
    assert phrase(thing("table", "brown", "wooden")) == "wooden table"
    assert phrase(thing("person", "orange")) == "person in an orange shirt"
    assert phrase(thing("bed", "blue", "dotted")) == "bed with a dotted blue blanket"
    assert phrase(thing("tv", "black")) == "television"
    assert article("oven") == "an oven"
    assert article("red curtains") == "red curtains"


def people() -> list[tuple[int, int]]:
    return [(i, k) for i in INDICES for k in range(len(rendering(i).people))]


def test_there_are_people() -> None:
    assert len(people()) >= 6


def test_keypoints_lie_in_boxes_and_in_the_image() -> None:
    for index, k in people():
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


def test_boxes_hold_all_visible_pixels_and_are_tight_on_uncovered_people() -> None:
    tight = 0
    for index, k in people():
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


def test_visible_joints_show_the_person_itself() -> None:
    hits, count = 0, 0
    for index, k in people():
        found = rendering(index)
        person = found.people[k]
        for x, y, seen in person.keypoints:
            if seen == 2:
                count += 1
                hits += found.labels["instance"][round(y), round(x)] == person.instance
    assert count > 40
    # the nearest pixel of a joint on the outline can lie beside the body
    assert hits / count > 0.93


def test_bounds_of_a_ball() -> None:
    """A ball at distance d on the axis is bounded by the tangents, r / sqrt(d^2 - r^2)."""
    low, high = _ellipsoid_bounds(np.array([0.0, 0.0, 2.0]), np.eye(3) * 0.5)
    np.testing.assert_allclose(high, 0.5 / np.sqrt(4 - 0.25))
    np.testing.assert_allclose(low, -high)


def test_captions_can_be_prompts() -> None:
    plain, told = Rooms("val", count=3, size=32), Rooms("val", count=3, size=32, prompt="caption")
    for index in range(3):
        scene = render_scene(index, split="val", size=32, labels=())
        assert told[index].prompt == scene.caption
        assert plain[index].prompt == scene.room_type
