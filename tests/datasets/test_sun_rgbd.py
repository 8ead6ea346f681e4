"""SUN RGB-D: the list of the toolbox, text lists, and both depth encodings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from tests.contracts import DatasetContract
from tests.support_images import write_image

from diffsight.datasets import SUNRGBD
from diffsight.datasets.base import AbstractDataset
from diffsight.errors import InputError

FRAMES = ("kv1/NYUdata/NYU0001", "realsense/lg/2014_10", "xtion/sun3d/hotel")


def counts_of(metres: float) -> int:
    """Return millimetres rotated left by three bits, as the archive stores them."""
    value = round(metres * 1000)
    return (value << 3 | value >> 13) & 0xFFFF


def write_frame(base: Path, frame: str, metres: float) -> None:
    write_image(base / frame / "image" / "a.jpg", size=(20, 18))
    path = base / frame / "depth_bfx" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((18, 20), counts_of(metres), np.uint16)).save(path)


def write_archive(root: Path) -> Path:
    """Write two test frames and one training frame as in the archive; return the list file."""
    if (root / "SUNRGBD").exists():
        return root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    for frame, metres in zip(FRAMES, (2.0, 9.5, 1.0), strict=True):
        write_frame(root / "SUNRGBD", frame, metres)
    prefix = "/n/fs/sun3d/data/SUNRGBD/"
    names = np.array([prefix + f for f in FRAMES[:2]], dtype=object)
    path = root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    path.parent.mkdir(parents=True)
    savemat(path, {"alltest": names, "alltrain": np.array([prefix + FRAMES[2]], dtype=object)})
    return path


class TestSUNRGBD(DatasetContract):
    subject = SUNRGBD

    def build(self, root: Path) -> AbstractDataset:
        write_archive(root)
        return SUNRGBD(root=root)


def test_splits_are_read_from_the_list_of_the_toolbox(tmp_path: Path) -> None:
    write_archive(tmp_path)
    test, train = SUNRGBD(root=tmp_path), SUNRGBD(root=tmp_path, split="train")
    assert (len(test), len(train), test.name) == (2, 1, "sun-rgbd-test")
    assert test[0].id == "kv1/NYUdata/NYU0001/image/a"
    assert (test[0].labels["depth_m"] == 2).all()
    assert (test[1].labels["depth_m"] == 9.5).all()  # 9500 mm need more than 13 bits


def test_the_encoding_of_ddps_authors_wraps_around_at_8_m(tmp_path: Path) -> None:
    write_archive(tmp_path)
    test = SUNRGBD(root=tmp_path, encoding="m/8000")
    assert (test[0].labels["depth_m"] == 2).all()
    assert float(test[1].labels["depth_m"].max()) == pytest.approx(9.5 - 8.192, abs=2e-3)


def test_a_text_list_selects_samples(tmp_path: Path) -> None:
    write_archive(tmp_path)
    lines = [f"SUNRGBD/{f}/image/a.jpg SUNRGBD/{f}/depth_bfx/a.png 500.0" for f in FRAMES]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    assert len(SUNRGBD(root=tmp_path, list_file=path)) == 3
    assert len(SUNRGBD(root=tmp_path / "SUNRGBD", list_file=path)) == 3
    path.write_text("nowhere/a.jpg nowhere/a.png")
    with pytest.raises(InputError, match="names none of the sensors kv1, kv2"):
        SUNRGBD(root=tmp_path, list_file=path)


def test_missing_files_and_lists_are_named(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    (tmp_path / "SUNRGBD" / FRAMES[0] / "depth_bfx" / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 of 4 files are missing .*NYU0001.*depth_bfx"):
        SUNRGBD(root=tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no list of SUN RGB-D's toolbox .*give allsplit.mat"):
        SUNRGBD(root=tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="no list of SUN RGB-D's toolbox"):
        SUNRGBD(root=tmp_path)
