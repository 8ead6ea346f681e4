"""KITTI depth: lists of the Eigen split, layouts of the files, and the benchmark's crop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contracts import DatasetContract
from tests.support_images import write_depth, write_image

from diffsight.datasets.check import check
from diffsight.datasets.kitti import KITTIDepth
from diffsight.errors import InputError

DAY = "2011_09_26"
DRIVE = "2011_09_26_drive_0002_sync"
IMAGE = f"{DAY}/{DRIVE}/image_02/data/0000000069.png"
DEPTH = f"{DRIVE}/proj_depth/groundtruth/image_02/0000000069.png"


def write_list(root: Path, *lines: str) -> Path:
    """Write a list of samples; return its path."""
    path = root / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("image_folder", ["", "raw_data"])
@pytest.mark.parametrize("depth_folder", ["", "data_depth_annotated", "data_depth_annotated/val"])
def test_files_are_located_in_every_layout(
    tmp_path: Path, image_folder: str, depth_folder: str
) -> None:
    write_image(tmp_path / image_folder / IMAGE)
    write_depth(tmp_path / depth_folder / DEPTH, 512)
    path = write_list(tmp_path, f"{IMAGE} {DEPTH} 721.5377")
    sample = KITTIDepth(root=tmp_path, list_file=path, kb_crop=False)[0]
    assert sample.id == IMAGE.removesuffix(".png")
    assert (sample.labels["depth_m"][:, 1:] == 2).all()
    assert not sample.valid["depth_m"][0].any()


def test_paths_in_the_list_may_start_at_the_root(tmp_path: Path) -> None:
    write_image(tmp_path / "raw_data" / IMAGE)
    write_depth(tmp_path / "data_depth_annotated/train" / DEPTH)
    path = write_list(tmp_path, f"/raw_data/{IMAGE} /data_depth_annotated/train/{DEPTH}")
    assert len(KITTIDepth(root=tmp_path, list_file=path, split="test")) == 1


def test_lines_without_depth_are_skipped_and_counted(tmp_path: Path) -> None:
    write_image(tmp_path / IMAGE)
    write_depth(tmp_path / DEPTH)
    path = write_list(tmp_path, f"{IMAGE} {DEPTH} 721.5", f"{IMAGE} None 721.5")
    data = KITTIDepth(root=tmp_path, list_file=path, split="test")
    assert (len(data), data.without_depth, data.name) == (1, 1, "kitti-test")


def test_a_check_without_the_lists_says_which_to_copy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"eigen_train\.txt: no such file: copy the list of the"):
        check("kitti", tmp_path)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "raw_data" / IMAGE)
    path = write_list(tmp_path, f"{IMAGE} {DEPTH} 721.5")
    with pytest.raises(
        InputError, match=r"1 of 2 files are missing \(first: .*groundtruth.*is incom"
    ):
        KITTIDepth(root=tmp_path, list_file=path)


def test_the_benchmark_crop_keeps_bottom_rows_and_centre_columns(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:375, :1242]
    image = np.stack([rows % 256, columns % 256, columns // 256], axis=2).astype(np.uint8)
    (tmp_path / IMAGE).parent.mkdir(parents=True)
    Image.fromarray(image).save(tmp_path / IMAGE)
    write_depth(tmp_path / DEPTH, 512, size=(1242, 375))
    path = write_list(tmp_path, f"{IMAGE} {DEPTH} 721.5")
    sample = KITTIDepth(root=tmp_path, list_file=path)[0]
    assert sample.image.shape == (3, 352, 1216)
    assert sample.labels["depth_m"].shape == (1, 352, 1216)
    assert sample.valid["depth_m"].all()
    assert torch.equal(sample.image, torch.from_numpy(image[23:, 13:1229]).permute(2, 0, 1))


def test_an_image_smaller_than_the_crop_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / IMAGE)
    write_depth(tmp_path / DEPTH)
    path = write_list(tmp_path, f"{IMAGE} {DEPTH} 721.5")
    with pytest.raises(
        InputError, match=r"20 x 24 .*smaller than the crop of 352 x 1216; set kb_crop"
    ):
        KITTIDepth(root=tmp_path, list_file=path)[0]


class TestKITTIDepth(DatasetContract):
    def build(self, folder: Path) -> KITTIDepth:
        write_image(folder / IMAGE)
        write_depth(folder / DEPTH, 512)
        path = write_list(folder, f"{IMAGE} {DEPTH} 721.5377")
        return KITTIDepth(root=folder, list_file=path, kb_crop=False)
