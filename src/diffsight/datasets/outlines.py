"""Convert masks to COCO outlines: polygons if they reproduce the mask exactly, else run lengths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from diffsight.datasets.shapes import rasterise

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # x and y: right, down, left, up
MAX_EDGES = 20_000  # pixel edges; longer outlines take more space than run lengths
Polygon = list[int]
"""Corners as a flat list: x, y, x, y, ..."""


def mask_to_outline(mask: Bool[np.ndarray, "h w"]) -> list[Polygon] | dict[str, Any]:
    """Return a mask as a COCO segmentation.

    If pycocotools draws exactly this mask from polygons, the segmentation is one polygon for each
    connected part, along the borders of the pixels. Otherwise (a mask with holes, or with a very
    long outline) it is compressed run lengths.
    """
    polygons = trace_polygons(mask)
    if polygons and (rasterise(Path(), polygons, mask.shape) == mask).all():
        return polygons
    return encode_run_lengths(mask)


def encode_run_lengths(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths, a dict of ``size`` and ``counts``."""
    from faster_coco_eval.core import mask as coco  # imported here: it takes 0.2 s

    runs: Mapping[str, Any] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(map(int, runs["size"])), "counts": runs["counts"].decode("ascii")}


def trace_polygons(mask: Bool[np.ndarray, "h w"]) -> list[Polygon] | None:
    """Return a polygon for each connected part of a mask.

    Pixels that touch only at a corner belong to different parts. If the mask has a hole, or more
    than ``MAX_EDGES`` pixel edges on its border, None is returned.
    """
    edges = _edges(mask)
    if len(edges) > MAX_EDGES:
        return None
    polygons = []
    while edges:
        corners = _pop_outline(edges, next(iter(edges)))
        x, y = np.array(corners).T
        if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() < 0:  # counter-clockwise: a hole
            return None
        polygons.append([value for corner in corners for value in corner])
    return polygons


def _edges(mask: Bool[np.ndarray, "h w"]) -> dict[tuple[int, int, int], None]:
    """Return the pixel edges on the border of the mask, as an ordered set of (x, y, direction).

    (x, y) is the start of an edge. The mask lies to the right of its direction.
    """
    padded = np.pad(mask, 1)
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))
    edges: dict[tuple[int, int, int], None] = {}
    for direction, (other, (right, down)) in enumerate(zip(neighbours, starts, strict=True)):
        for y, x in np.argwhere(mask & ~other).tolist():
            edges[x + right, y + down, direction] = None
    return edges


def _pop_outline(
    edges: dict[tuple[int, int, int], None], first: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """Remove the edges of one closed outline from ``edges`` and return its corners."""
    x, y, direction = first
    del edges[first]
    corners: list[tuple[int, int]] = []
    while True:
        x, y = x + STEPS[direction][0], y + STEPS[direction][1]
        # try the right turn first: it stays at the same pixel
        turns = (direction + turn for turn in (1, 0, 3))
        following = next((t % 4 for t in turns if (x, y, t % 4) in edges), None)
        if following is None:  # the outline is closed
            if direction != first[2]:
                corners.append((x, y))
            return corners
        if following != direction:
            corners.append((x, y))
        direction = following
        del edges[x, y, direction]
