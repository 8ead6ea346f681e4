"""Masks as outlines of COCO: polygons where they are exact, else run lengths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from diffsight.datasets.shapes import rasterise

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # x and y: right, down, left, up
MOST_EDGES = 20_000  # of pixels; longer outlines are larger than run lengths
Polygon = list[int]
"""x and y of the corners, one after another."""


def outline_of(mask: Bool[np.ndarray, "h w"]) -> list[Polygon] | dict[str, Any]:
    """Return a mask as a segmentation of COCO.

    It is one polygon for each of its parts, along the borders of the pixels, if pycocotools draws
    exactly this mask from them. A mask with holes, or with a very long outline, becomes compressed
    run lengths.
    """
    polygons = trace(mask)
    if polygons and (rasterise(Path(), polygons, mask.shape) == mask).all():
        return polygons
    return run_lengths(mask)


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return a mask as the compressed run lengths of pycocotools."""
    from faster_coco_eval.core import mask as coco  # a fifth of a second

    runs: Mapping[str, Any] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(map(int, runs["size"])), "counts": runs["counts"].decode("ascii")}


def trace(mask: Bool[np.ndarray, "h w"]) -> list[Polygon] | None:
    """Return a polygon for each part of a mask; pixels that share a corner only are two parts.

    None if it has a hole, or too long an outline.
    """
    edges = _edges(mask)
    if len(edges) > MOST_EDGES:
        return None
    polygons = []
    while edges:
        corners = _walk(edges, next(iter(edges)))
        x, y = np.array(corners).T
        if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() < 0:  # counter-clockwise: a hole
            return None
        polygons.append([value for corner in corners for value in corner])
    return polygons


def _edges(mask: Bool[np.ndarray, "h w"]) -> dict[tuple[int, int, int], None]:
    """Return the borders of the mask by start (x, y) and direction; the mask is on the right."""
    padded = np.pad(mask, 1)
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))
    edges: dict[tuple[int, int, int], None] = {}
    for direction, (other, (right, down)) in enumerate(zip(neighbours, starts, strict=True)):
        for y, x in np.argwhere(mask & ~other).tolist():
            edges[x + right, y + down, direction] = None
    return edges


def _walk(
    edges: dict[tuple[int, int, int], None], first: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """Take the edges of a closed outline out of ``edges``, and return its corners."""
    x, y, direction = first
    del edges[first]
    corners: list[tuple[int, int]] = []
    while True:
        x, y = x + STEPS[direction][0], y + STEPS[direction][1]
        # to the right first: around the same pixel
        turns = (direction + turn for turn in (1, 0, 3))
        following = next((t % 4 for t in turns if (x, y, t % 4) in edges), None)
        if following is None:  # back at the first edge
            if direction != first[2]:
                corners.append((x, y))
            return corners
        if following != direction:
            corners.append((x, y))
        direction = following
        del edges[x, y, direction]
