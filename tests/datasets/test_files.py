"""Reading image files in all formats, and errors in one line for all damage."""

import errno
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_images import (
    RED,
    assert_one_line,
    save,
    uniform_image,
    write_png_with_gamma,
)

from diffsight.atomic import replacing
from diffsight.datasets.depth import read_depth, write_depth_png
from diffsight.datasets.files import decode, list_files, read_image
from diffsight.errors import InputError
from diffsight.inference.pipeline import to_tensor


def write_rgb48_png(path: Path, array: np.ndarray) -> Path:
    """Write a PNG with 16 bits per channel, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff", "gif"])
def test_lossless_formats_keep_the_pixels(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a.{suffix}", uniform_image()))
    assert image.shape == (3, 20, 24)
    assert image.is_contiguous()
    assert (image == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all()


def test_the_gamma_of_a_png_is_not_applied(tmp_path: Path) -> None:
    """Images of Cityscapes state a gamma; networks are trained on the stored values."""
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    path = write_png_with_gamma(tmp_path / "a.png", array)
    assert torch.equal(read_image(path).permute(1, 2, 0), torch.from_numpy(array))
    with Image.open(path) as image:
        assert image.info["gamma"] == pytest.approx(1.0)
        assert torch.equal(to_tensor(image).permute(1, 2, 0), torch.from_numpy(array))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_nearly_keep_the_pixels(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a.{suffix}", uniform_image(), quality=95))
    assert (image.int() - torch.tensor(RED)[:, None, None]).abs().max() <= 4


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    array = np.zeros((20, 30, 3), np.uint8)
    array[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored top is the right side of the scene
    image = read_image(save(tmp_path / "a.png", array, exif=exif))
    assert image.shape == (3, 30, 20)
    assert (image[..., 10:] == 255).all()
    assert (image[..., :10] == 0).all()


def test_grayscale_and_bilevel_images_become_rgb(tmp_path: Path) -> None:
    gray = np.arange(400, dtype=np.uint16).reshape(20, 20).astype(np.uint8)
    image = read_image(save(tmp_path / "a.png", gray))
    assert (image == torch.from_numpy(gray)).all()
    Image.fromarray(gray > 127).save(tmp_path / "b.png")
    assert set(read_image(tmp_path / "b.png").unique().tolist()) == {0, 255}


def test_transparent_pixels_are_blended_with_white(tmp_path: Path) -> None:
    array = uniform_image((*RED, 255))
    array[:10, :, 3] = 0
    image = read_image(save(tmp_path / "a.png", array))
    assert (image[:, :10] == 255).all()
    assert (image[:, 10:] == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all()
    half = read_image(save(tmp_path / "b.png", uniform_image((0, 0, 0, 51))))
    assert half.unique().tolist() == [204]


def test_palettes_become_rgb_with_and_without_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(uniform_image()).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "a.png")
    expected = torch.tensor(RED, dtype=torch.uint8)[:, None, None]
    assert (read_image(tmp_path / "a.png") == expected).all()
    palette.save(tmp_path / "b.png", transparency=palette.getpixel((0, 0)))
    assert (read_image(tmp_path / "b.png") == 255).all()


@pytest.mark.parametrize("factor", [256, 257])
def test_16_bit_images_keep_the_high_byte(tmp_path: Path, factor: int) -> None:
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = read_image(save(tmp_path / "a.png", gray * np.uint16(factor)))
    assert (image == torch.from_numpy(gray.astype(np.uint8))).all()
    colour = np.stack([gray, gray[::-1], gray.T], axis=2)
    image = read_image(write_rgb48_png(tmp_path / "b.png", colour * np.uint16(factor)))
    assert (image.permute(1, 2, 0) == torch.from_numpy(colour.astype(np.uint8))).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (24, 20), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "a.jpg").float().mean((1, 2)).tolist()
    assert red > 230
    assert green < 25
    assert blue < 25


def test_float_and_32_bit_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tiff", np.zeros((20, 20), np.float32))
    with pytest.raises(InputError, match="floating-point values; convert it to 8 or 16 bit"):
        read_image(path)
    path = save(tmp_path / "b.tiff", np.full((20, 20), 70_000, np.int32))
    with pytest.raises(InputError, match="32-bit values; convert it to 8 or 16 bit"):
        read_image(path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1, 1), "1 x 1 pixels: the shorter side must have at least 16"),
        ((20_000, 10), "20000 x 10 pixels: the shorter side must have at least 16"),
        ((20, 401), "20 x 401 pixels: the sides may differ by a factor of 20 at most; cut it"),
    ],
)
def test_unsupported_image_sizes_are_refused(
    tmp_path: Path, size: tuple[int, int], message: str
) -> None:
    path = save(tmp_path / "a.png", uniform_image(size=size))
    with pytest.raises(InputError, match=message) as error:
        read_image(path)
    assert_one_line(error, path)


@pytest.mark.parametrize("side", [11_600, 60_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(f"P5 {side} {side} 255\n".encode() + bytes(64))
    with pytest.raises(InputError, match=r"134,217,728.*scale it down") as error:
        read_image(path)
    assert_one_line(error, path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    data = path.read_bytes()
    for fraction in (0.3, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * fraction)])
        with pytest.raises(InputError, match="damaged") as error:
            read_image(path)
        assert_one_line(error, path)


def test_empty_missing_and_non_image_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    for read in (read_image, read_depth):
        with pytest.raises(InputError, match=re.escape(f"{path}: the file is empty (0 bytes)")):
            read(path)
        with pytest.raises(InputError, match=r"cannot be read.*check the path"):
            read(tmp_path / "missing.png")
        with pytest.raises(InputError, match=r"cannot be read.*check the path"):
            read(tmp_path)
    path.write_text("a letter")
    for read in (read_image, read_depth):
        with pytest.raises(
            InputError, match=r"not an image in a supported format.*convert it to PNG"
        ):
            read(path)


def fail_to_write(path: Path) -> None:
    """Fail as a full disk does in the middle of a write."""
    with replacing(path) as temporary:
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=r"No space left on device.*has space"):
        fail_to_write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with pytest.raises(InputError, match=r"cannot be written.*choose a folder that exists"):
        write_depth_png(
            tmp_path / "none" / "a.png", torch.ones(16, 16), torch.ones(16, 16, dtype=torch.bool)
        )


def test_damaged_exif_data_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(uniform_image()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(9))
    assert read_image(path).shape == (3, 20, 24)


def test_reading_a_large_image_logs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (11_000, 10_000)).save(path)
    shape = decode(path, ("PNG",), lambda image: np.array(image.size))
    assert shape.tolist() == [11_000, 10_000]
    assert "a.png: 110 megapixels: reading it takes about 1.1 GB of memory" in caplog.text


def test_links_to_missing_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").symlink_to(tmp_path / "gone.jpg")
    (file,) = list_files(tmp_path)
    with pytest.raises(InputError, match=r"photo\.jpg: cannot be read \(No such file"):
        read_image(file)
