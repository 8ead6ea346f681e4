"""Colour images of labels, for people to look at."""

import numpy as np
from PIL import Image, ImageDraw

from diffsight.rooms.dataset import Rendering

_STOPS = np.array(
    [
        [0.05, 0.03, 0.25],
        [0.30, 0.10, 0.55],
        [0.72, 0.22, 0.42],
        [0.96, 0.55, 0.22],
        [1.0, 0.96, 0.70],
    ]
)
_BONES = (
    (5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15),
    (12, 14), (14, 16), (0, 5), (0, 6),
)  # fmt: skip
_DISPLAY_MAXIMA = {
    "reshading": 1.0,
    "edge_occlusion": 0.2,
    "edge_texture": 0.1,
    "keypoints2d": 0.01,
    "keypoints3d": 0.6,
}


def colour_heat(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return a heat map of values in [0, 1], ``h w 3`` of uint8; invalid pixels are black."""
    position = np.clip(values, 0, 1) * (len(_STOPS) - 1)
    channels = [np.interp(position, np.arange(len(_STOPS)), _STOPS[:, i]) for i in range(3)]
    colours = (np.stack(channels, axis=-1) * 255 + 0.5).astype(np.uint8)
    colours[~valid] = 0
    return colours


def colour_ids(ids: np.ndarray) -> np.ndarray:
    """Return an image with a different colour for every id, ``h w 3`` of uint8."""
    codes = (ids.astype(np.int64) + 1) * 2654435761 % 2**32
    return np.stack([codes >> 3 & 255, codes >> 11 & 255, codes >> 19 & 255], axis=-1).astype(
        np.uint8
    )


def colour_label(rendering: Rendering, label: str) -> np.ndarray:
    """Return a colour image of one label, ``h w 3`` of uint8."""
    value, valid = rendering.labels[label], rendering.valid[label]
    if label in ("semantic", "instance"):
        return colour_ids(value)
    if label in ("depth_m", "euclidean_depth_m"):
        low, high = np.min(value[0], where=valid, initial=1e9), np.max(value)
        return colour_heat((high - value[0]) / max(high - low, 1e-6), valid)
    if label in _DISPLAY_MAXIMA:
        return colour_heat(value[0] / _DISPLAY_MAXIMA[label], valid)
    if label == "normals":
        colours = ((value + 1) / 2 * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    elif label == "principal_curvature_per_m":
        bend = np.clip(value / 20, -1, 1) * 127 + 127
        colours = np.stack([*bend, np.full_like(bend[0], 127)], axis=-1).astype(np.uint8)
    else:
        turn = value / np.maximum(np.abs(value).max(axis=(1, 2), keepdims=True), 1e-6)
        colours = ((turn + 1) / 2 * 255).astype(np.uint8).transpose(1, 2, 0)
    colours[~valid] = 0
    return colours


def draw_people(rendering: Rendering) -> np.ndarray:
    """Return the image with boxes and keypoints (visible: green, covered: orange), ``h w 3``."""
    image = Image.fromarray(np.ascontiguousarray(rendering.image.transpose(1, 2, 0)))
    draw = ImageDraw.Draw(image)
    dot = max(min(image.size) / 160, 1.0)
    for person in rendering.people:
        draw.rectangle(person.box, outline=(255, 255, 0))
        x, y, seen = person.keypoints.T
        for a, b in _BONES:
            if seen[a] and seen[b]:
                draw.line((x[a], y[a], x[b], y[b]), fill=(120, 200, 255))
        for i in np.flatnonzero(seen):
            colour = (60, 255, 60) if seen[i] == 2 else (255, 140, 0)
            draw.ellipse((x[i] - dot, y[i] - dot, x[i] + dot, y[i] + dot), fill=colour)
    return np.asarray(image)


def make_contact_sheet(renderings: list[Rendering]) -> np.ndarray:
    """Return an image with a row per scene: image, people, all labels; ``h w 3`` of uint8."""
    rows = []
    for rendering in renderings:
        columns = [rendering.image.transpose(1, 2, 0), draw_people(rendering)]
        columns += [colour_label(rendering, label) for label in rendering.labels]
        rows.append(np.concatenate(columns, axis=1))
    return np.concatenate(rows, axis=0)
