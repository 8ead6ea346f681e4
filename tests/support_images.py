"""Write small images and depth maps, and check the form of error messages."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from diffsight.errors import InputError

RED = (200, 30, 10)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a random image of ``size`` (width, height) that depends on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_depth(path: Path, count: int = 2000, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a 16-bit depth map with the pixel value ``count``; row 0 is 0, which is invalid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = np.full((size[1], size[0]), count, np.uint16)
    counts[0] = 0
    Image.fromarray(counts).save(path)
    return path


def rgbd_rows(root: Path) -> str:
    """Return the five real RGB-D pairs in the folder ``root`` as lines of a manifest."""
    table = [
        ("color/00000.jpg", "depth/00000.png", "mm"),
        ("color/00004.jpg", "depth/00004.png", "mm"),
        ("other_formats/TUM_color.png", "other_formats/TUM_depth.png", "m/5000"),
        ("other_formats/SUN_color.jpg", "other_formats/SUN_depth.png", "sunrgbd"),
        ("other_formats/NYU_color.ppm", "other_formats/NYU_depth.pgm", "kinect-disparity"),
    ]
    return "".join(f"{root / image},{root / label},{code}\n" for image, label, code in table)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    """Write an array as an image; return its path."""
    Image.fromarray(array).save(path, **options)
    return path


def write_png_with_gamma(path: Path, array: np.ndarray) -> Path:
    """Write a PNG with a gAMA chunk of 1, for which decoders that apply it brighten the image."""
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100_000))
    save(path, array, pnginfo=info)
    assert b"gAMA" in path.read_bytes()
    return path


def uniform_image(colour: tuple[int, ...] = RED, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    """Return an image of one colour and of ``size`` (width, height)."""
    return np.full((size[1], size[0], len(colour)), colour, np.uint8)


def write_pgm(path: Path, counts: np.ndarray, largest: int, order: str = ">") -> Path:
    """Write a 16-bit PGM with the given maximum in its header and the given byte order."""
    header = f"P5\n# a comment\n{counts.shape[1]} {counts.shape[0]}\n{largest}\n".encode()
    path.write_bytes(header + counts.astype(f"{order}u2").tobytes())
    return path


def assert_one_line(error: pytest.ExceptionInfo[InputError], path: Path) -> None:
    """Check that the message names the file and has one line."""
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
