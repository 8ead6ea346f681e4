"""Reading and writing depth maps: encodings, file formats, and errors in one line."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_images import assert_one_line, save, write_pgm

from diffsight.datasets.depth import read_depth, write_depth_png
from diffsight.datasets.files import read_image
from diffsight.errors import InputError

COUNTS = np.arange(320, dtype=np.uint16).reshape(16, 20) * np.uint16(200)


@pytest.mark.parametrize(
    ("unit", "per_metre"), [("mm", 1000), ("cm", 100), ("m", 1), ("m/256", 256), ("m/5000", 5000)]
)
def test_pixel_values_are_divided_by_the_unit_to_get_metres(
    tmp_path: Path, unit: str, per_metre: int
) -> None:
    depth_m, valid = read_depth(save(tmp_path / "a.png", COUNTS), unit)
    assert depth_m.dtype == torch.float32
    assert torch.equal(depth_m, torch.from_numpy((COUNTS / per_metre).astype(np.float32)))
    assert torch.equal(valid, torch.from_numpy(COUNTS > 0))


def test_all_file_formats_give_the_same_depth(tmp_path: Path) -> None:
    expected, _ = read_depth(save(tmp_path / "a.png", COUNTS))
    np.save(tmp_path / "b.npy", COUNTS.astype(np.int64))
    np.save(tmp_path / "c.npy", COUNTS.astype(np.float64))
    write_pgm(tmp_path / "d.pgm", COUNTS, 65535)
    write_pgm(tmp_path / "e.pgm", COUNTS, int(COUNTS.max()))
    save(tmp_path / "f.tiff", COUNTS.astype(np.float32))
    for path in sorted(tmp_path.iterdir()):
        assert torch.equal(read_depth(path)[0], expected), path
    small = save(tmp_path / "g.png", (COUNTS // 256).astype(np.uint8))
    assert read_depth(small, "cm")[0].max() == pytest.approx(2.49)


def test_bits_of_sun_rgbd_depth_are_rotated_back(tmp_path: Path) -> None:
    millimetres = COUNTS.astype(np.uint32)
    rotated = ((millimetres << 3) | (millimetres >> 13)).astype(np.uint16)
    depth_m, _ = read_depth(save(tmp_path / "a.png", rotated), "sunrgbd")
    assert torch.equal(depth_m, torch.from_numpy((COUNTS / 1000).astype(np.float32)))


@pytest.mark.parametrize("order", [">", "<"])
def test_kinect_disparity_is_read_in_either_byte_order(tmp_path: Path, order: str) -> None:
    raw = np.tile(np.array([[838, 2047, 1091, 1093]], np.uint16), (16, 5))
    depth_m, valid = read_depth(
        write_pgm(tmp_path / "a.pgm", raw, 65535, order), "kinect-disparity"
    )
    assert valid[0, :4].tolist() == [True, False, True, False]
    torch.testing.assert_close(depth_m[0, :4], torch.tensor([351.3 / 254.5, 0, 234.2, 0]))


def test_unknown_or_unsuitable_encodings_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", COUNTS)
    for unit in ("inch", "m/0", "m/x", "m/-2", "m/inf", "256"):
        with pytest.raises(InputError, match=f"unknown depth encoding '{unit}'; use.*mm, cm, m or"):
            read_depth(path, unit)
    with pytest.raises(InputError, match="values from 0 to 2047"):
        read_depth(path, "kinect-disparity")
    np.save(tmp_path / "b.npy", COUNTS.astype(np.float32))
    with pytest.raises(InputError, match="sunrgbd needs 16-bit integers; give the unit"):
        read_depth(tmp_path / "b.npy", "sunrgbd")


def test_the_invalid_value_nan_infinity_and_zero_are_not_valid(tmp_path: Path) -> None:
    depth = np.full((16, 16), 2.5, np.float32)
    depth[0, :5] = np.nan, np.inf, -np.inf, -1, 0
    np.save(tmp_path / "a.npy", depth)
    depth_m, valid = read_depth(tmp_path / "a.npy", "m", -1)
    assert valid.sum() == 256 - 5
    assert (depth_m[0, :5] == 0).all()
    assert (depth_m[valid] == 2.5).all()


def test_negative_depth_is_refused_with_the_number_of_pixels(tmp_path: Path) -> None:
    depth = np.full((16, 16), 2.5)
    depth[3, :7] = -4
    np.save(tmp_path / "a.npy", depth)
    with pytest.raises(InputError, match=r"7 of 256 pixels .*\(lowest -4 m\)") as error:
        read_depth(tmp_path / "a.npy", "m")
    assert_one_line(error, tmp_path / "a.npy")


def test_a_depth_map_without_valid_pixels_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((16, 16), 65535, np.uint16))
    np.save(tmp_path / "b.npy", np.full((16, 16), np.nan))
    for path, invalid in ((tmp_path / "a.png", 65535), (tmp_path / "b.npy", 0)):
        with pytest.raises(InputError, match=r"no pixel has a depth.*remove") as error:
            read_depth(path, "mm", invalid)
        assert_one_line(error, path)


def test_colour_images_are_refused_as_depth(tmp_path: Path) -> None:
    for name, mode in (("a.png", "RGB"), ("b.png", "P"), ("c.png", "LA")):
        Image.new(mode, (20, 16)).save(tmp_path / name)
        with pytest.raises(InputError, match=rf"mode {mode}\), not a depth map; give the file"):
            read_depth(tmp_path / name)


def test_arrays_of_other_shapes_or_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (np.zeros((2, 16, 16)), np.zeros((16, 16), bool), np.zeros((16, 16), complex)):
        np.save(path, array)
        with pytest.raises(
            InputError, match=r"not one (2-D array: save depth|array of numbers: save)"
        ):
            read_depth(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"damaged or cut off \(.*pickle"):
        read_depth(path)
    np.save(path, COUNTS)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="damaged or cut off"):
        read_depth(path)
    archive = io.BytesIO()
    np.savez(archive, COUNTS)
    path.write_bytes(archive.getvalue())
    with pytest.raises(InputError, match="contains an archive"):
        read_depth(path)


def test_damaged_pgm_files_are_refused(tmp_path: Path) -> None:
    path = write_pgm(tmp_path / "a.pgm", COUNTS, 65535)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="fewer samples than its header says"):
        read_depth(path)
    path.write_text("P2 16 16 255\n" + "1 " * 256)
    with pytest.raises(InputError, match=r"not a binary PGM \(P5\)"):
        read_depth(path)


def test_all_65536_counts_survive_writing_and_reading(tmp_path: Path) -> None:
    counts = torch.arange(65536).reshape(256, 256)
    depth_m = counts.float() / 1000
    write_depth_png(tmp_path / "a.png", depth_m, torch.ones(256, 256, dtype=torch.bool))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
        assert image.text == {"depth_unit": "mm", "depth_invalid": "0"}
        assert np.array_equal(np.array(image), counts.numpy())
    read_m, valid = read_depth(tmp_path / "a.png", "mm")
    assert torch.equal(read_m, depth_m)
    assert torch.equal(valid, counts > 0)


def test_depth_outside_the_range_of_16_bits_is_written_as_invalid(tmp_path: Path) -> None:
    depth_m = torch.ones(16, 16)
    values = [65.536, 1e9, torch.inf, torch.nan, -1.0, 0.0004, 65.535]
    depth_m[0, :7] = torch.tensor(values)
    valid = torch.ones(16, 16, dtype=torch.bool)
    valid[1] = False
    write_depth_png(tmp_path / "a.png", depth_m, valid)
    read_m, read_valid = read_depth(tmp_path / "a.png")
    assert read_valid[0].tolist() == [False] * 6 + [True] * 10
    assert read_m[0, 6] == torch.tensor(65.535)
    assert not read_valid[1].any()


def test_depth_outside_the_range_of_float32_is_not_valid(tmp_path: Path) -> None:
    depth = np.full((16, 20), 2.0)
    depth[0], depth[1] = 1e300, 1e-300
    np.save(tmp_path / "a.npy", depth)
    depth_m, valid = read_depth(tmp_path / "a.npy", "m")
    assert valid.tolist() == [[False] * 20] * 2 + [[True] * 20] * 14
    assert depth_m.isfinite().all()


@pytest.mark.realdata
def test_real_depth_maps_have_the_expected_range() -> None:
    folder = os.environ.get("DIFFSIGHT_DATA_DIR")
    assert folder, "set DIFFSIGHT_DATA_DIR to the folder with the real data (it contains rgbd/)"
    root = Path(folder) / "rgbd"
    table = [
        ("color/00000.jpg", "depth/00000.png", "mm", (0.955, 2.702)),
        ("color/00004.jpg", "depth/00004.png", "mm", (1.052, 2.702)),
        ("other_formats/TUM_color.png", "other_formats/TUM_depth.png", "m/5000", (1.464, 9.331)),
        ("other_formats/SUN_color.jpg", "other_formats/SUN_depth.png", "sunrgbd", (1.057, 9.870)),
        (
            "other_formats/NYU_color.ppm",
            "other_formats/NYU_depth.pgm",
            "kinect-disparity",
            (1.386, 6.691),
        ),
    ]
    for image_name, depth_name, encoding, limits_m in table:
        depth_m, valid = read_depth(root / depth_name, encoding)
        range_m = depth_m[valid].min().item(), depth_m[valid].max().item()
        assert range_m == pytest.approx(limits_m, abs=6e-4), depth_name
        assert valid.float().mean() > 0.8
        assert read_image(root / image_name).shape[-2:] == depth_m.shape == (480, 640)
