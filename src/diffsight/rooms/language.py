"""Words about a scene: a caption, and expressions that fit exactly one of the things in view."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffsight.rooms.draw import stream
from diffsight.rooms.raycast import Grid, cast
from diffsight.rooms.world import Scene, Thing

# things are looked at through a grid of this many rays on the longer side, at any image size
REFERENCE_PX = 96
MIN_AREA_PX = 14
_SIDE_GAP = 0.1
_DEPTH_GAP_M = 0.35
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
    """A thing as the camera sees it.

    Attributes:
        index: instance.
        thing: what it is.
        area_px: pixels on the reference grid.
        x: middle of those pixels, -1 at the left border of the longer side to 1 at the right.
        depth_m: their median z-depth.
    """

    index: int
    thing: Thing
    area_px: int
    x: float
    depth_m: float


def look_around(scene: Scene, height: int, width: int) -> tuple[InView, ...]:
    """Return everything in view, the largest first, whatever the image's size is."""
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
    """Return the bare word for a thing."""
    return _NOUNS.get(thing.kind, thing.kind)


def phrase(thing: Thing, *, colour: bool = True, look: bool = True) -> str:
    """Return a noun phrase without an article: "striped red sofa", "person in a blue shirt"."""
    words = [thing.look] if look and thing.look else []
    if colour and thing.colour and thing.look != "wooden":
        words.append(thing.colour)
    if thing.kind in _PLAIN_KINDS or not words:
        return noun(thing)
    if thing.kind == "person":
        return f"person in {article(' '.join(words))} shirt"
    if thing.kind == "bed":
        return f"bed with {article(' '.join(words))} blanket"
    return f"{' '.join(words)} {noun(thing)}"


def article(words: str) -> str:
    """Return the words with "a" or "an" in front, or nothing in front of a plural."""
    if words.endswith("curtains"):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene, in_view: Sequence[InView]) -> str:
    """Return one or two sentences about what is in view."""
    draw = stream(scene.split, scene.seed, scene.index, "caption")
    named = [s for s in in_view if s.thing.kind not in _SHELL and s.area_px >= MIN_AREA_PX]
    items = _items(named, draw.integer(3, 6))
    start = draw.choice((article(scene.room_type), f"a view of {article(scene.room_type)}"))
    text = f"{start} with {_listed(items)}" if items else start
    details = _details(scene, in_view, named)
    for detail in draw.shuffled(details)[: draw.integer(0, 2)]:
        text += f", {detail}"
    return text


def _items(named: Sequence[InView], most: int) -> list[str]:
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


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _details(scene: Scene, in_view: Sequence[InView], named: Sequence[InView]) -> list[str]:
    """Return half sentences that are true of the picture."""
    details = []
    kinds = [s.thing.kind for s in named]
    for seen in in_view:
        thing = seen.thing
        if thing.kind in ("floor", "wall") and seen.area_px > 200:
            colour = "" if thing.look == "wooden" else thing.colour
            words = " ".join(w for w in (thing.look, colour) if w)
            details.append(f"{words} {'floor' if thing.kind == 'floor' else 'walls'}")
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
    """Return referring expressions with the instance each fits; at most two per thing.

    Every expression is true of exactly one of the things in view, slivers included.
    """
    draw = stream(scene.split, scene.seed, scene.index, "expressions")
    entries = []
    for target in in_view:
        if target.thing.kind in _SHELL or target.area_px < MIN_AREA_PX:
            continue
        own = _by_attribute(target, in_view)[:1] + draw.shuffled(
            _by_relation(scene, target, in_view)
        )
        entries += [(text, target.index) for text in own[:2]]
    return entries


def _by_attribute(target: InView, in_view: Sequence[InView]) -> list[str]:
    """Return phrases by kind, colour and pattern that fit no other thing in view."""
    texts = []
    for colour, look in ((False, False), (True, False), (False, True), (True, True)):
        text = phrase(target.thing, colour=colour, look=look)
        says_nothing_more = (colour or look) and text == noun(target.thing)
        # rivals are described with as many words: a striped red chair is a "red chair", too
        rivals = [s for s in in_view if phrase(s.thing, colour=colour, look=look) == text]
        if len(rivals) == 1 and not says_nothing_more and f"the {text}" not in texts:
            texts.append(f"the {text}")
    return texts


def _by_relation(scene: Scene, target: InView, in_view: Sequence[InView]) -> list[str]:
    """Return phrases by position among its kind, by support, and by a neighbour."""
    word = noun(target.thing)
    rivals = [s for s in in_view if s.thing.kind == target.thing.kind and s is not target]
    texts = _extremes(word, target, rivals) if rivals else []
    if target.thing.support is not None:
        carrier = scene.things[target.thing.support]
        others = [s for s in rivals if _carrier_kind(scene, s.thing) == carrier.kind]
        if not others:
            texts.append(f"the {word} on the {noun(carrier)}")
    for anchor in in_view:
        alone = sum(s.thing.kind == anchor.thing.kind for s in in_view) == 1
        if not alone or anchor.thing.kind in _SHELL or anchor.area_px < MIN_AREA_PX:
            continue
        offsets = [s.x - anchor.x for s in (target, *rivals)]
        if min(abs(o) for o in offsets) < _SIDE_GAP:
            continue
        for side, sign in (("left", -1), ("right", 1)):
            if offsets[0] * sign > 0 and all(o * sign < 0 for o in offsets[1:]):
                texts.append(f"the {word} to the {side} of the {noun(anchor.thing)}")
    return texts


def _carrier_kind(scene: Scene, thing: Thing) -> str | None:
    return None if thing.support is None else scene.things[thing.support].kind


def _extremes(word: str, target: InView, rivals: Sequence[InView]) -> list[str]:
    texts = []
    xs, depths = [s.x for s in rivals], [s.depth_m for s in rivals]
    if target.x < min(xs) - _SIDE_GAP:
        texts.append(f"the leftmost {word}")
    if target.x > max(xs) + _SIDE_GAP:
        texts.append(f"the rightmost {word}")
    if target.depth_m < min(depths) - _DEPTH_GAP_M:
        texts.append(f"the nearest {word}")
    if target.depth_m > max(depths) + _DEPTH_GAP_M:
        texts.append(f"the farthest {word}")
    return texts
