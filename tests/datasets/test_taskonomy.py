"""Taskonomy on disk: four folder layouts, old names, splits, and unusable files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support import assert_sample
from tests.support_taskonomy import (
    DENSE,
    OLD_NAMES,
    PATH_TEMPLATES,
    SIDE,
    VIEWS,
    channel_values,
    make_counts,
    make_picture,
    make_view,
    read_label,
    read_sample,
    write_view,
    write_views,
)

from diffsight.datasets.taskonomy import Taskonomy, task_names
from diffsight.datasets.taskonomy_files import SPLITS, TRAIN_BUILDINGS
from diffsight.errors import InputError


@pytest.mark.parametrize("layout", PATH_TEMPLATES)
@pytest.mark.parametrize("is_explicit", [True, False])
def test_all_layouts_are_read_and_detected(tmp_path: Path, layout: str, is_explicit: bool) -> None:
    root = write_views(tmp_path, layout)
    chosen = layout if is_explicit else "auto"
    train = Taskonomy(root=root, task="normal", layout=chosen)
    assert sorted(train.ids) == ["hanson/point_7_view_1", "woodbine/point_0_view_12"]
    assert len(train) == 2
    for task in (*DENSE, "segment_semantic", "segment_semantic/chair"):
        dataset = Taskonomy(root=root, task=task, split="muleshoe", layout=chosen)
        assert dataset.ids == ("muleshoe/point_3_view_0",)
        sample = dataset[0]
        assert sample.id == "muleshoe/point_3_view_0"
        assert sample.image.shape == (3, SIDE, SIDE)
        assert sample.labels[dataset.label].shape[-2:] == (SIDE, SIDE)
        assert_sample(sample, dataset)
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), make_view()["rgb"])
    assert len(task_names("native")) == 9 + 12 + 1


def test_native_depth_labels_are_in_metres(tmp_path: Path) -> None:
    dataset = Taskonomy(root=write_views(tmp_path), task="depth_zbuffer")
    assert dataset.label == "depth_m"
    assert channel_values(dataset[0].labels["depth_m"]) == [2000 / 512]


def test_folder_names_of_the_first_releases_are_read(tmp_path: Path) -> None:
    for building, name in VIEWS:
        for task, pixels in make_view().items():
            old = {"segment_semantic": "segmentsemantic"}.get(task, OLD_NAMES.get(task, task))
            path = tmp_path / building / old / f"{name}_domain_{old}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    # the folder of euclidean depth was called mist
    assert channel_values(read_label(tmp_path, "depth_euclidean", preset="native")[0]) == [4.0]
    assert channel_values(read_label(tmp_path, "depth_zbuffer", preset="native")[0]) == [2000 / 512]
    assert channel_values(read_label(tmp_path, "keypoints3d", preset="native")[0]) == [0.125]
    for task in task_names("native")[:10]:
        assert len(Taskonomy(root=tmp_path, task=task)) == 2


def test_folders_in_no_supported_layout_are_refused(tmp_path: Path) -> None:
    write_view(tmp_path, "Muleshoe", "point_0_view_0", make_view())
    with pytest.raises(InputError, match=r"no rgb images.*BUILDING/TASK.*TASK/taskonomy") as error:
        Taskonomy(root=tmp_path, task="normal")
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="in layout merged"):
        Taskonomy(root=write_views(tmp_path), task="normal", layout="merged")


def test_a_split_is_a_list_of_buildings_or_one_building(tmp_path: Path) -> None:
    assert [len(TRAIN_BUILDINGS), len(SPLITS["val"]), len(SPLITS["test"])] == [25, 5, 5]
    every = [*TRAIN_BUILDINGS, *SPLITS["val"], *SPLITS["test"]]
    assert len(set(every)) == 35
    assert list(TRAIN_BUILDINGS) == sorted(TRAIN_BUILDINGS)
    for building in ("hanson", "uvalda", "wiconisco", "darden"):
        write_view(tmp_path, building, "point_1_view_1", make_view())

    def ids(split: str) -> list[str]:
        return sorted(Taskonomy(root=tmp_path, task="normal", split=split).ids)

    assert ids("train") == ["hanson/point_1_view_1"]
    assert ids("test") == ["uvalda/point_1_view_1"]
    assert ids("val") == ["darden/point_1_view_1", "wiconisco/point_1_view_1"]
    assert ids("darden") == ["darden/point_1_view_1"]
    with pytest.raises(InputError, match="no images of muleshoe"):
        ids("muleshoe")
    with pytest.raises(InputError, match="unknown Taskonomy split 'Hanson'"):
        ids("Hanson")


def test_missing_label_folders_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    for building, name in VIEWS:
        files = make_view()
        del files["keypoints3d"]
        write_view(tmp_path, building, name, files)
    with pytest.raises(InputError, match="no folder keypoints3d of train"):
        Taskonomy(root=tmp_path, task="keypoints3d")
    with pytest.raises(InputError, match=r"unknown Taskonomy task 'depth': choose depth_eucl"):
        Taskonomy(root=tmp_path, task="depth")


def test_max_images_selects_the_first_ids(tmp_path: Path) -> None:
    for number in range(8):
        write_view(tmp_path, "muleshoe", f"point_{number}_view_0", {"rgb": make_view()["rgb"]})

    def ids(max_images: int | None) -> tuple[str, ...]:
        options = {"split": "muleshoe", "preset": "vtm", "max_images": max_images}
        return Taskonomy(root=tmp_path, task="edge_texture", **options).ids

    assert ids(3) == ids(None)[:3]
    assert list(ids(None)) != sorted(ids(None))
    assert len(ids(None)) == 8
    with pytest.raises(InputError, match="max_images 0"):
        ids(0)


def test_the_task_of_one_class_has_only_images_that_show_it(tmp_path: Path) -> None:
    bed, chair = np.full((SIDE, SIDE), 6, np.uint8), np.full((SIDE, SIDE), 3, np.uint8)
    for number in range(6):
        ids = bed if number % 2 else chair
        write_view(tmp_path, "hanson", f"point_{number}_view_0", make_view(segment_semantic=ids))
    beds = Taskonomy(root=tmp_path, task="segment_semantic/bed")
    assert set(beds.ids) == {f"hanson/point_{n}_view_0" for n in (1, 3, 5)}
    assert len(Taskonomy(root=tmp_path, task="segment_semantic")) == 6
    two = Taskonomy(root=tmp_path, task="segment_semantic/bed", max_images=2)
    assert two.ids == beds.ids[:2]
    assert len(Taskonomy(root=tmp_path, task="segment_semantic/sink")) == 0


def test_damaged_files_are_named(tmp_path: Path) -> None:
    root = write_views(tmp_path)
    broken = root / "muleshoe/keypoints3d/point_3_view_0_domain_keypoints3d.png"
    broken.write_bytes(broken.read_bytes()[:60])
    lost = root / "muleshoe/reshading/point_3_view_0_domain_reshading.png"
    lost.unlink()
    visual = root / "muleshoe/keypoints2d/point_3_view_0_domain_keypoints2d.png"
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(visual)
    normal = root / "muleshoe/normal/point_3_view_0_domain_normal.png"
    Image.fromarray(make_picture((128, 128, 0), 48)).save(normal)
    ids = root / "muleshoe/segment_semantic/point_3_view_0_domain_segmentsemantic.png"
    ids.write_bytes(b"")
    reasons = {
        "keypoints3d": (broken, "damaged or cut off"),
        "reshading": (lost, "cannot be read"),
        "keypoints2d": (visual, "has 16 bits in one channel"),
        "normal": (normal, "differ in size"),
        "segment_semantic": (ids, "empty"),
    }
    for task, (path, reason) in reasons.items():
        with pytest.raises(InputError) as error:
            read_sample(root, task)
        assert str(error.value).startswith(str(path))
        assert reason in str(error.value)
    dataset = Taskonomy(root=root, task="segment_semantic/chair", split="muleshoe")
    assert len(dataset) == 0
    assert read_label(root, "depth_zbuffer")[1].all()


def test_an_image_without_any_label_is_named(tmp_path: Path) -> None:
    root = write_views(tmp_path, depth_euclidean=make_counts(65535))
    with pytest.raises(InputError, match=r"depth_euclidean.png: no pixel has a label"):
        read_sample(root, "depth_euclidean")
    assert read_sample(root, "keypoints2d").id == "muleshoe/point_3_view_0"
