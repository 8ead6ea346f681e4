"""Colour maps as tables of 256 RGB rows, computed in the colour space Oklab (Ottosson, 2020)."""

import numpy as np
from jaxtyping import Float, UInt8

Plane = Float[np.ndarray, "h w"]
Table = UInt8[np.ndarray, "256 3"]
_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
UNKNOWN_RGB = (64, 64, 64)
_UNKNOWN = np.array(UNKNOWN_RGB, dtype=np.uint8)


def paint(values: Plane, valid: np.ndarray, table: Table) -> UInt8[np.ndarray, "h w 3"]:
    """Return the colours of values in a colour map; dark grey where ``valid`` is False.

    Args:
        values: values in [0, 1]; others are clipped.
        valid: mask of valid pixels.
        table: colour map.
    """
    steps = np.where(valid, values, 0).clip(0, 1) * 255
    return np.where(valid[..., None], table[steps.round().astype(np.uint8)], _UNKNOWN)


def depth_table() -> Table:
    """Return the colour map of depth: from pale yellow (near) to dark blue (far).

    Lightness falls evenly, so that a picture can also be read in shades of grey.
    """
    t = np.linspace(0, 1, 256)
    return _oklch(0.92 - 0.69 * t, 0.18 * np.sin(np.pi * (0.13 + 0.77 * t)), 95 - 190 * t)


def error_table() -> Table:
    """Return the colour map of errors: blue below, white in the middle, red above.

    Both ends have the same lightness and chroma.
    """
    t = np.linspace(-1, 1, 256)
    return _oklch(0.97 - 0.42 * abs(t), 0.16 * abs(t), np.where(t < 0, 255, 28))


def _oklch(lightness: np.ndarray, chroma: np.ndarray, hue_deg: np.ndarray) -> np.ndarray:
    """Return sRGB colours from 0 to 255 of lightness, chroma and hue in Oklab."""
    hue = np.deg2rad(hue_deg)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = ((lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().astype(np.uint8)
