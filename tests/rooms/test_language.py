"""Captions and referring expressions are true and do not depend on the size of the image."""

import functools
import re

import numpy as np
import pytest

from diffsight.rooms import ROOM_TYPES, Rendering, Rooms, render_scene
from diffsight.rooms.language import article, look_around, noun, phrase
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Thing

INDICES = (100, 104, 106, 109, 116, 118, 411, 413, 421)


@functools.cache
def rendering(index: int) -> Rendering:
    return render_scene(index, size=96, labels=("instance", "depth_m"))


@pytest.mark.parametrize("index", INDICES)
def test_a_caption_names_the_room_and_only_things_in_it(index: int) -> None:
    rendered = rendering(index)
    assert rendered.room_type in ROOM_TYPES
    text = rendered.caption
    assert rendered.room_type in text
    nouns = ("table", "chair", "sofa", "bed", "shelf", "cabinet", "plant", "vase", "rug", "window")
    nouns += (
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
    for kind in nouns:
        if re.search(rf"\b{kind}s?\b", text):
            assert kind in rendered.kinds, text
    assert "  " not in text
    assert text == text.strip()


@pytest.mark.parametrize("index", INDICES)
def test_every_expression_has_the_mask_of_one_visible_thing(index: int) -> None:
    rendered = rendering(index)
    assert len(rendered.expressions) >= 5
    texts = [e.text for e in rendered.expressions]
    assert len(set(texts)) == len(texts)
    for expression in rendered.expressions:
        assert expression.mask.any()
        assert (expression.mask == (rendered.labels["instance"] == expression.instance)).all()
        thing = sample_scene("train", 0, index).things[expression.instance]
        assert noun(thing) in expression.text
        assert rendered.kinds[expression.instance] == thing.kind


@pytest.mark.parametrize("index", INDICES)
def test_expressions_describe_positions_correctly(index: int) -> None:
    """Positions and depths are compared with the masks and the depth map."""
    rendered, scene = rendering(index), sample_scene("train", 0, index)
    instance, depth = rendered.labels["instance"], rendered.labels["depth_m"][0]
    seen = [s.index for s in look_around(scene, 96, 96)]
    middles = {i: np.nonzero(instance == i)[1].mean() for i in seen if (instance == i).any()}
    depths = {i: np.median(depth[instance == i]) for i in middles}
    for expression in rendered.expressions:
        own = expression.instance
        kind = scene.things[own].kind
        others = [i for i in middles if scene.things[i].kind == kind and i != own]
        if "leftmost" in expression.text:
            assert all(middles[own] < middles[i] for i in others)
        elif "rightmost" in expression.text:
            assert all(middles[own] > middles[i] for i in others)
        elif "nearest" in expression.text and kind != "window":
            assert all(depths[own] < depths[i] for i in others)
        elif " to the left of the " in expression.text:
            other = expression.text.split(" of the ")[1]
            anchors = [i for i in middles if noun(scene.things[i]) == other]
            assert len(anchors) == 1
            assert middles[own] < middles[anchors[0]]
        elif expression.text == f"the {noun(scene.things[own])}":
            assert not others


def test_expressions_do_not_change_with_the_size() -> None:
    small, large = (render_scene(104, size=s, labels=()) for s in (64, 160))
    assert [e.text for e in small.expressions] == [e.text for e in large.expressions]
    assert small.caption == large.caption


def test_things_are_described_by_look_colour_and_kind() -> None:
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


def test_the_prompt_is_the_room_type_or_the_caption() -> None:
    plain, captioned = (
        Rooms("val", count=3, size=32),
        Rooms("val", count=3, size=32, prompt="caption"),
    )
    for index in range(3):
        scene = render_scene(index, split="val", size=32, labels=())
        assert captioned[index].prompt == scene.caption
        assert plain[index].prompt == scene.room_type
