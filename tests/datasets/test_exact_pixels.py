"""Files whose pixels Pillow would change are refused, and transparent pixels have no label."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.errors import InputError

COUNTS = (np.arange(16 * 20).reshape(16, 20) * 100 + 1000).astype(np.uint16)
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by number of channels


def write_16_bit_png(path: Path, array: np.ndarray) -> Path:
    """Write an array ``h w c`` of 16 bits as PNG, which Pillow cannot do with several channels."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + checksum
    path.write_bytes(data)
    return path


def write_16_bit_tiff(path: Path, array: np.ndarray) -> Path:
    """Write an array ``h w 3`` of 16 bits as TIFF, which Pillow cannot do."""
    height, width, _ = array.shape
    pixels = array.astype("<u2").tobytes()
    start = 8 + 2 + 12 * 9 + 4
    tags = [(256, width), (257, height), (258, start), (259, 1), (262, 2), (273, start + 6)]
    tags += [(277, 3), (278, height), (279, len(pixels))]
    data = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in tags:
        data += struct.pack("<HHII", tag, *((3, 3) if tag == 258 else (4, 1)), value)
    path.write_bytes(data + struct.pack("<I3H", 0, 16, 16, 16) + pixels)
    return path


def write_16_bit_ppm(path: Path, array: np.ndarray) -> Path:
    """Write an array ``h w 3`` of 16 bits as PPM."""
    height, width, _ = array.shape
    header = f"P6\n# a comment\n{width} {height}\n65535\n"
    path.write_bytes(header.encode() + array.astype(">u2").tobytes())
    return path


@pytest.mark.parametrize("kind", ["segmentation", "scalar", "normals", "vector"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_several_channels_of_16_bits_are_refused(tmp_path: Path, channels: int, kind: str) -> None:
    array = np.repeat(COUNTS[..., None], channels, axis=2)
    path = write_16_bit_png(tmp_path / "a.png", array)
    repair = "an NPY file" if kind in ("normals", "vector") else "a 16-bit PNG with one channel, or"
    with pytest.raises(
        InputError, match=rf"a\.png: several channels of 16 bits, .* save it as {repair}"
    ) as error:
        read_label(path, LabelFormat(kind))
    assert "\n" not in str(error.value)


def test_16_bit_colours_of_other_formats_are_refused(tmp_path: Path) -> None:
    array = np.repeat(COUNTS[..., None], 3, axis=2)
    for path in (
        write_16_bit_tiff(tmp_path / "a.tif", array),
        write_16_bit_ppm(tmp_path / "a.ppm", array),
    ):
        with pytest.raises(InputError, match=r"several channels of 16 bits, of which only 8 can"):
            read_label(path, LabelFormat("vector"))
        Image.fromarray((array >> 8).astype(np.uint8)).save(path)
        assert read_label(path, LabelFormat("vector")).valid.all()


def test_one_channel_of_16_bits_keeps_its_values(tmp_path: Path) -> None:
    path = write_16_bit_png(tmp_path / "a.png", COUNTS[..., None])
    assert (read_label(path, LabelFormat("scalar")).value[0].numpy() == COUNTS).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_transparent_pixels_of_numbers_have_no_label(tmp_path: Path, mode: str) -> None:
    grey = np.full((16, 20), 200, np.uint8)
    grey[:8], grey[12:] = np.arange(20), 255
    options: dict[str, object] = {}
    if mode in ("RGBA", "LA"):
        alpha = np.where(grey == 255, 0, 200).astype(np.uint8)
        image = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))).convert(mode)
    else:
        image = Image.fromarray(grey.astype(np.uint16) if mode == "I;16" else grey)
        image = image if mode == "I;16" else image.convert(mode)
        options["transparency"] = (255, 255, 255) if mode == "RGB" else 255
    image.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
    label = read_label(tmp_path / "a.png", LabelFormat("scalar", invalid=3))
    assert (label.valid.numpy() == ((grey != 255) & (grey != 3))).all()
    assert (label.value[0].numpy() == np.where(label.valid, grey, 0)).all()


def test_transparent_pixels_of_vectors_have_no_label(tmp_path: Path) -> None:
    encoded = np.full((16, 20, 4), (128, 128, 255, 255), np.uint8)
    encoded[12:] = (255, 128, 128, 0)
    Image.fromarray(encoded).save(tmp_path / "a.png")
    for kind in ("normals", "vector"):
        label = read_label(tmp_path / "a.png", LabelFormat(kind))
        assert label.valid[:12].all()
        assert not label.valid[12:].any()
    encoded[..., 3] = 0
    Image.fromarray(encoded).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: no pixel has a label"):
        read_label(tmp_path / "a.png", LabelFormat("vector"))
