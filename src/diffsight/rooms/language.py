"""Captions, and referring expressions that describe exactly one of the things in view."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffsight.rooms.draw import stream
from diffsight.rooms.raycast import Grid, cast
from diffsight.rooms.world import Scene, Thing

# rays along the longer side of a reference grid, which finds the things in view for any image size
REFERENCE_PX = 96
MIN_AREA_PX = 14  # things with fewer pixels on the reference grid are not mentioned
_SIDE_GAP = 0.1  # least difference of ``InView.x`` for "left" and "right"
_DEPTH_GAP_M = 0.35  # least difference of the depth for "nearest" and "farthest"
_SHELL = ("wall", "floor", "ceiling")
_PLAIN_KINDS = ("plant", "toilet", "bathtub", "sink", "tv", "window", *_SHELL)
_NOUNS = {"tv": "television", "sphere": "ball", "book": "pile of books", "curtain": "curtains"}
_PLURALS = {
    "shelf": "shelves",
    "box": "boxes",
    "person": "people",
    "tv": "televisions",
    "sphere": "balls",
    "book": "piles of books",
    "curtain": "curtains",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class InView:
    """A thing that the camera sees.

    Attributes:
        index: index of the thing in the scene.
        thing: the thing.
        area_px: number of its pixels on the reference grid.
        x: mean column of these pixels, from -1 at the left border to 1 at the right; in an image
            that is higher than wide, the borders are nearer to 0.
        depth_m: median of their depth along the optical axis, in metres.
    """

    index: int
    thing: Thing
    area_px: int
    x: float
    depth_m: float


def look_around(scene: Scene, height: int, width: int) -> tuple[InView, ...]:
    """Return the things in view, the largest first.

    The result depends on the shape of the image, not on its number of pixels.
    """
    longer = max(height, width)
    rows, columns = (max(round(side * REFERENCE_PX / longer), 1) for side in (height, width))
    hits = cast(scene, Grid.of_image(scene.view, rows, columns))
    thing = np.array([p.thing for p in scene.primitives])[hits.primitive]
    entries = []
    for index in np.unique(thing):
        mask = thing == index
        x = (float(np.nonzero(mask)[1].mean()) + 0.5 - columns / 2) / (REFERENCE_PX / 2)
        depth = float(np.median(hits.depth_m[mask]))
        entries.append(InView(int(index), scene.things[index], int(mask.sum()), x, depth))
    return tuple(sorted(entries, key=lambda seen: (-seen.area_px, seen.index)))


def noun(thing: Thing) -> str:
    """Return the noun for a thing."""
    return _NOUNS.get(thing.kind, thing.kind)


def phrase(thing: Thing, *, colour: bool = True, look: bool = True) -> str:
    """Return a noun phrase without an article: "striped red sofa", "person in a blue shirt".

    Args:
        thing: the thing.
        colour: whether to name its colour.
        look: whether to name its pattern or material.
    """
    attributes = [thing.look] if look and thing.look else []
    if colour and thing.colour and thing.look != "wooden":
        attributes.append(thing.colour)
    if thing.kind in _PLAIN_KINDS or not attributes:
        return noun(thing)
    if thing.kind == "person":
        return f"person in {article(' '.join(attributes))} shirt"
    if thing.kind == "bed":
        return f"bed with {article(' '.join(attributes))} blanket"
    return f"{' '.join(attributes)} {noun(thing)}"


def article(text: str) -> str:
    """Return a text with "a" or "an" in front; curtains, a plural, get no article."""
    if text.endswith("curtains"):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def caption(scene: Scene, in_view: Sequence[InView]) -> str:
    """Return one sentence about the things in view."""
    draw = stream(scene.split, scene.seed, scene.index, "caption")
    named = [s for s in in_view if s.thing.kind not in _SHELL and s.area_px >= MIN_AREA_PX]
    items = _list_kinds(named, draw.integer(3, 6))
    start = draw.choice((article(scene.room_type), f"a view of {article(scene.room_type)}"))
    text = f"{start} with {_join_phrases(items)}" if items else start
    details = _list_details(scene, in_view, named)
    for detail in draw.shuffled(details)[: draw.integer(0, 2)]:
        text += f", {detail}"
    return text


def _list_kinds(named: Sequence[InView], most: int) -> list[str]:
    kinds: dict[str, list[Thing]] = {}
    for seen in named:
        kinds.setdefault(seen.thing.kind, []).append(seen.thing)
    items = []
    for kind, things in list(kinds.items())[:most]:
        if len(things) == 1:
            items.append(article(phrase(things[0])))
        elif kind == "curtain":
            items.append("curtains")
        else:
            count = _NUMBERS[len(things)] if len(things) < len(_NUMBERS) else "many"
            items.append(f"{count} {_PLURALS.get(kind, kind + 's')}")
    return items


def _join_phrases(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _list_details(scene: Scene, in_view: Sequence[InView], named: Sequence[InView]) -> list[str]:
    """Return phrases about floor, walls, sunlight and things on other things, for a caption."""
    details = []
    kinds = [s.thing.kind for s in named]
    for seen in in_view:
        thing = seen.thing
        if thing.kind in ("floor", "wall") and seen.area_px > 200:
            colour = "" if thing.look == "wooden" else thing.colour
            attributes = " ".join(w for w in (thing.look, colour) if w)
            details.append(f"{attributes} {'floor' if thing.kind == 'floor' else 'walls'}")
        carrier = None if thing.support is None else scene.things[thing.support]
        if carrier is None or seen not in named or carrier.kind not in kinds:
            continue
        if thing.kind == "person":
            details.append("someone sitting on a chair")
        else:
            details.append(f"{article(noun(thing))} on {article(noun(carrier))}")
    if any(lamp.gate is not None for lamp in scene.lights):
        details.append("sunlight")
    return details


def expressions(scene: Scene, in_view: Sequence[InView]) -> list[tuple[str, int]]:
    """Return referring expressions, each with the index of the thing that it describes.

    A thing has at most two expressions. Every expression describes exactly one of the things in
    view, however small the others are.
    """
    draw = stream(scene.split, scene.seed, scene.index, "expressions")
    entries = []
    for target in in_view:
        if target.thing.kind in _SHELL or target.area_px < MIN_AREA_PX:
            continue
        own = _describe_by_attribute(target, in_view)[:1] + draw.shuffled(
            _describe_by_relation(scene, target, in_view)
        )
        entries += [(text, target.index) for text in own[:2]]
    return entries


def _describe_by_attribute(target: InView, in_view: Sequence[InView]) -> list[str]:
    """Return phrases of kind, colour and pattern that describe no other thing in view."""
    texts = []
    for colour, look in ((False, False), (True, False), (False, True), (True, True)):
        text = phrase(target.thing, colour=colour, look=look)
        adds_nothing = (colour or look) and text == noun(target.thing)
        # a phrase ignores the other attributes: a striped red chair is a "red chair", too
        matches = [s for s in in_view if phrase(s.thing, colour=colour, look=look) == text]
        if len(matches) == 1 and not adds_nothing and f"the {text}" not in texts:
            texts.append(f"the {text}")
    return texts


def _describe_by_relation(scene: Scene, target: InView, in_view: Sequence[InView]) -> list[str]:
    """Return phrases that describe the target by its position relative to other things.

    These are things of the same kind ("the leftmost chair"), the thing that it stands on, and
    neighbours ("the chair to the left of the table").
    """
    word = noun(target.thing)
    others_of_kind = [s for s in in_view if s.thing.kind == target.thing.kind and s is not target]
    texts = _describe_extremes(word, target, others_of_kind) if others_of_kind else []
    if target.thing.support is not None:
        carrier = scene.things[target.thing.support]
        on_same_kind = [s for s in others_of_kind if _carrier_kind(scene, s.thing) == carrier.kind]
        if not on_same_kind:
            texts.append(f"the {word} on the {noun(carrier)}")
    for anchor in in_view:
        alone = sum(s.thing.kind == anchor.thing.kind for s in in_view) == 1
        if not alone or anchor.thing.kind in _SHELL or anchor.area_px < MIN_AREA_PX:
            continue
        offsets = [s.x - anchor.x for s in (target, *others_of_kind)]
        if min(abs(o) for o in offsets) < _SIDE_GAP:
            continue
        for side, sign in (("left", -1), ("right", 1)):
            if offsets[0] * sign > 0 and all(o * sign < 0 for o in offsets[1:]):
                texts.append(f"the {word} to the {side} of the {noun(anchor.thing)}")
    return texts


def _carrier_kind(scene: Scene, thing: Thing) -> str | None:
    return None if thing.support is None else scene.things[thing.support].kind


def _describe_extremes(word: str, target: InView, others_of_kind: Sequence[InView]) -> list[str]:
    texts = []
    xs, depths = [s.x for s in others_of_kind], [s.depth_m for s in others_of_kind]
    if target.x < min(xs) - _SIDE_GAP:
        texts.append(f"the leftmost {word}")
    if target.x > max(xs) + _SIDE_GAP:
        texts.append(f"the rightmost {word}")
    if target.depth_m < min(depths) - _DEPTH_GAP_M:
        texts.append(f"the nearest {word}")
    if target.depth_m > max(depths) + _DEPTH_GAP_M:
        texts.append(f"the farthest {word}")
    return texts
