"""Colours and procedural patterns.

The patterns use only sums, products, rounding and integer hashes, which give the same bits on every
machine.
"""

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms.world import Material, Pattern, Vector

# sRGB values of the named colours
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.75, 0.13, 0.12),
    "orange": (0.90, 0.49, 0.13),
    "yellow": (0.91, 0.78, 0.24),
    "green": (0.22, 0.52, 0.25),
    "turquoise": (0.20, 0.62, 0.62),
    "blue": (0.16, 0.33, 0.68),
    "purple": (0.45, 0.24, 0.58),
    "pink": (0.89, 0.55, 0.66),
    "brown": (0.42, 0.27, 0.16),
    "black": (0.11, 0.11, 0.12),
    "grey": (0.52, 0.53, 0.54),
    "white": (0.91, 0.91, 0.89),
}
# sRGB values of kinds of wood
WOODS = ((0.62, 0.43, 0.26), (0.47, 0.30, 0.17), (0.74, 0.57, 0.38), (0.33, 0.21, 0.13))
# word for each pattern in captions and expressions
LOOKS: dict[str, str] = {
    "solid": "",
    "checker": "checkered",
    "stripes": "striped",
    "dots": "dotted",
    "tiles": "tiled",
    "bricks": "brick",
    "wood": "wooden",
    "planks": "wooden",
    "marble": "marbled",
}


def decode(encoded: tuple[float, float, float]) -> Vector:
    """Return linear RGB from sRGB values in [0, 1], with an exponent of 2.2."""
    r, g, b = (round(max(v, 0.0) ** 2.2, 6) for v in encoded)
    return r, g, b


def tint(draw: Draw, encoded: tuple[float, float, float], jitter: float = 0.05) -> Vector:
    """Return a random linear RGB colour near an sRGB colour."""
    gain = draw.uniform(0.9, 1.1)
    r, g, b = (min(max(v * gain + draw.uniform(-jitter, jitter), 0.02), 0.97) for v in encoded)
    return decode((r, g, b))


def shade(colour: Vector, factor: float) -> Vector:
    """Return a linear colour times a factor, at most 0.95 per channel."""
    r, g, b = (min(v * factor, 0.95) for v in colour)
    return r, g, b


def make_material(
    draw: Draw,
    colour: str,
    pattern: Pattern = "solid",
    *,
    second: str | None = None,
    scale_m: float | None = None,
    gloss: float | None = None,
) -> Material:
    """Return a material of a named colour.

    Args:
        draw: stream of random numbers.
        colour: name of the first colour, one of ``COLOURS``.
        pattern: pattern of the two colours.
        second: name of the second colour; None takes a shade of the first.
        scale_m: size of one repeat of the pattern in metres; None draws one.
        gloss: strength of the highlight, 0 to 1; None draws one.
    """
    first = tint(draw, COLOURS[colour])
    if second is not None:
        other = tint(draw, COLOURS[second])
    elif max(first) < 0.1:
        other = (first[0] + 0.25, first[1] + 0.25, first[2] + 0.25)
    else:
        other = shade(first, draw.uniform(0.35, 0.6))
    scale = scale_m if scale_m is not None else draw.uniform(0.12, 0.3)
    shine = gloss if gloss is not None else draw.choice((0.0, 0.0, 0.15, 0.4))
    return Material(pattern, first, other, scale, draw.integer(0, 2**31 - 1), shine)


def make_wood(draw: Draw, pattern: Pattern = "wood", gloss: float = 0.1) -> Material:
    """Return a wooden material: ``wood`` for grain, ``planks`` for floor boards."""
    first = tint(draw, draw.choice(WOODS), 0.02)
    scale = draw.uniform(0.10, 0.16) if pattern == "planks" else draw.uniform(0.04, 0.08)
    return Material(pattern, first, shade(first, 0.55), scale, draw.integer(0, 2**31 - 1), gloss)


def make_plain(
    encoded: tuple[float, float, float], gloss: float = 0.0, glow: float = 0.0
) -> Material:
    """Return a material of one sRGB colour."""
    colour = decode(encoded)
    return Material("solid", colour, colour, gloss=gloss, glow=glow)


def hash_pairs(seed: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return a pseudo-random float32 number in [0, 1) for every pair of whole numbers."""
    a = i.astype(np.int32).astype(np.uint32)
    b = j.astype(np.int32).astype(np.uint32)
    h = a * np.uint32(0x9E3779B1) ^ b * np.uint32(0x85EBCA77) ^ np.uint32(seed & 0xFFFFFFFF)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def value_noise(seed: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return value noise in [0, 1): random values at whole numbers, interpolated smoothly."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    a, b = hash_pairs(seed, iu, iv), hash_pairs(seed, iu + 1, iv)
    c, d = hash_pairs(seed, iu, iv + 1), hash_pairs(seed, iu + 1, iv + 1)
    low, high = a + (b - a) * fu, c + (d - c) * fu
    return low + (high - low) * fv


def compute_albedo(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the linear RGB ``(3, p)`` of a material at surface coordinates in metres, ``p``."""
    weight = _WEIGHTS[surface.pattern](surface, u / surface.scale_m, v / surface.scale_m)
    colour = np.empty((3, *u.shape), dtype=u.dtype)
    for channel in range(3):
        first, second = surface.colour[channel], surface.second[channel]
        colour[channel] = first + (second - first) * weight
    if surface.lower is not None:
        low = v < surface.lower_m
        colour[:, low] = compute_albedo(surface.lower, u[low], v[low])
    return colour


# each pattern function returns the weight of the second colour at u, v (in repeats of the pattern)


def _solid(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros_like(u)


def _checker(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.floor(u) + np.floor(v)) % 2


def _stripes(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.floor(u * 2) % 2


def _dots(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    x, y = u + (row % 2) / 2, v - row - 0.5
    x = x - np.floor(x) - 0.5
    return (x * x + y * y < 0.07).astype(u.dtype)


def _find_grout(u: np.ndarray, v: np.ndarray, width_u: float, width_v: float) -> np.ndarray:
    return (u - np.floor(u) < width_u) | (v - np.floor(v) < width_v)


def _tiles(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    tone = hash_pairs(surface.seed, np.floor(u), np.floor(v)) * 0.18
    return np.where(_find_grout(u, v, 0.05, 0.05), 1, tone)


def _bricks(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    v = v * 3
    u = u + (np.floor(v) % 2) / 2
    tone = hash_pairs(surface.seed, np.floor(u), np.floor(v)) * 0.35
    return np.where(_find_grout(u, v, 0.05, 0.14), 1, tone)


def _wood(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    bend = value_noise(surface.seed, u * 0.12, v * 0.5)
    grain = value_noise(surface.seed + 1, u * 0.2, v * 1.5 + bend * 3)
    return (grain * 0.7 + bend * 0.3) * 0.8


def _planks(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    shift = hash_pairs(surface.seed, row, row) * 7
    along = u / 8 + shift
    tone = hash_pairs(surface.seed + 1, np.floor(along), row)
    grain = value_noise(surface.seed + 2, u * 0.4 + shift * 31, v * 5)
    return np.where(_find_grout(along, v, 0.006, 0.04), 1.3, tone * 0.5 + grain * 0.35)


def _marble(surface: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    coarse = value_noise(surface.seed, u, v)
    fine = value_noise(surface.seed + 1, u * 2.7, v * 2.7)
    vein = np.abs(coarse * 0.7 + fine * 0.3 - 0.5)
    return np.maximum(0.9 - vein * 5, fine * 0.25)


_WEIGHTS = {
    "solid": _solid,
    "checker": _checker,
    "stripes": _stripes,
    "dots": _dots,
    "tiles": _tiles,
    "bricks": _bricks,
    "wood": _wood,
    "planks": _planks,
    "marble": _marble,
}
