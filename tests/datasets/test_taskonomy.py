"""Taskonomy on disk: four layouts, old names, splits, and what is missing or damaged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.datasets.taskonomy_files import (
    DENSE,
    OLD,
    PATHS,
    SIDE,
    VIEWS,
    colours,
    one,
    read,
    view,
    words,
    write,
    write_all,
)

from diffsight.datasets.taskonomy import SPLITS, TRAIN_BUILDINGS, Taskonomy
from diffsight.errors import InputError


@pytest.mark.parametrize("layout", PATHS)
@pytest.mark.parametrize("given", [True, False])
def test_layouts(tmp_path: Path, layout: str, given: bool) -> None:
    source = Taskonomy(root=write_all(tmp_path, layout), layout=layout if given else "auto")
    assert sorted(source.pool("normal")) == ["hanson/point_7_view_1", "woodbine/point_0_view_12"]
    assert source.queries("normal") == ["muleshoe/point_3_view_0"]
    assert len(source.tasks) == 9 + 12 + 1
    assert source.missing == {}
    assert len(source.missing_buildings) == 23
    for task in (*DENSE, "segment_semantic", "segment_semantic/chair"):
        found = read(source, task)
        assert found.image.shape == (3, SIDE, SIDE)
        assert found.value.shape[1:] == found.valid.shape == (SIDE, SIDE)
        assert found.truth is not None
        assert found.truth.shape == (len(found.value), 256, 256)
    np.testing.assert_array_equal(found.image.permute(1, 2, 0), view()["rgb"])


def test_the_first_releases_names(tmp_path: Path) -> None:
    for building, name in VIEWS:
        for task, pixels in view().items():
            old = {"segment_semantic": "segmentsemantic"}.get(task, OLD.get(task, task))
            path = tmp_path / building / old / f"{name}_domain_{old}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    source = Taskonomy(root=tmp_path, preset="native")
    assert len(source.tasks) == 22
    assert one(read(source, "depth_euclidean").value) == [4.0]  # mist, not depth
    assert one(read(source, "depth_zbuffer").value) == [2000 / 512]
    assert one(read(source, "keypoints3d").value) == [0.125]
    assert source.skipped == {}


def test_no_layout_fits(tmp_path: Path) -> None:
    write(tmp_path, "Muleshoe", "point_0_view_0", view())
    with pytest.raises(InputError, match=r"no rgb images.*BUILDING/TASK.*TASK/taskonomy") as error:
        Taskonomy(root=tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="in layout merged"):
        Taskonomy(root=write_all(tmp_path), layout="merged")


def test_splits(tmp_path: Path) -> None:
    assert [len(TRAIN_BUILDINGS), len(SPLITS["val"]), len(SPLITS["test"])] == [25, 5, 5]
    every = [*TRAIN_BUILDINGS, *SPLITS["val"], *SPLITS["test"]]
    assert len(set(every)) == 35
    assert list(TRAIN_BUILDINGS) == sorted(TRAIN_BUILDINGS)
    for building in ("hanson", "uvalda", "wiconisco", "darden"):
        write(tmp_path, building, "point_1_view_1", view())
    queries = {s: Taskonomy(root=tmp_path, split=s).queries("normal") for s in ("test", "val")}
    assert queries["test"] == ["uvalda/point_1_view_1"]
    assert sorted(queries["val"]) == ["darden/point_1_view_1", "wiconisco/point_1_view_1"]
    assert Taskonomy(root=tmp_path, split="darden").queries("normal") == ["darden/point_1_view_1"]
    assert Taskonomy(root=tmp_path, split="val").pool("normal") == ["hanson/point_1_view_1"]
    with pytest.raises(InputError, match="no images of muleshoe"):
        Taskonomy(root=tmp_path)
    with pytest.raises(InputError, match="unknown Taskonomy split 'hanson'"):
        Taskonomy(root=tmp_path, split="hanson")


def test_missing_folders(tmp_path: Path) -> None:
    for building, name in VIEWS:
        files = view()
        del files["keypoints3d"]
        write(tmp_path, building, name, files)
    source = Taskonomy(root=tmp_path)
    assert source.missing == {"keypoints3d": "keypoints3d"}
    assert len(source.tasks) == 21
    assert Taskonomy(root=tmp_path, tasks=["normal", "keypoints3d"]).tasks.keys() == {"normal"}
    with pytest.raises(InputError, match="missing: keypoints3d"):
        Taskonomy(root=tmp_path, tasks=["keypoints3d"])
    with pytest.raises(InputError, match=r"unknown Taskonomy task 'depth': choose depth_eucl"):
        Taskonomy(root=tmp_path, tasks=["depth"])


def test_without_euclidean_depth_only_what_needs_no_mask(tmp_path: Path) -> None:
    for building, name in VIEWS:
        files = view()
        del files["depth_euclidean"]
        write(tmp_path, building, name, files)
    source = Taskonomy(root=tmp_path)
    dense = [name for name in source.tasks if not name.startswith("segment")]
    assert sorted(dense) == ["edge_texture", "keypoints2d"]
    assert set(source.missing.values()) == {"depth_euclidean"}


def test_a_part_of_the_queries(tmp_path: Path) -> None:
    write(tmp_path, "hanson", "point_0_view_0", {"rgb": view()["rgb"], "normal": view()["normal"]})
    for number in range(8):
        write(tmp_path, "muleshoe", f"point_{number}_view_0", {"rgb": view()["rgb"]})
    every = Taskonomy(root=tmp_path, tasks=["edge_texture"]).queries("edge_texture")
    source = Taskonomy(root=tmp_path, tasks=["edge_texture"], max_images=3)
    assert source.queries("edge_texture") == every[:3]
    assert every != sorted(every)
    assert len(every) == 8
    assert source.name.endswith(", 3 images")
    assert source.name != Taskonomy(root=tmp_path, tasks=["edge_texture"], max_images=4).name
    with pytest.raises(InputError, match="max_images 0"):
        Taskonomy(root=tmp_path, max_images=0)


def test_the_name_tells_which_images_there_are(tmp_path: Path) -> None:
    """Units of a benchmark are compared by it: a download that goes on makes other ones."""
    name = Taskonomy(root=write_all(tmp_path)).name
    assert Taskonomy(root=tmp_path).name == name
    assert name.startswith("taskonomy, muleshoe, vtm, 2 + 1 files (")
    for building in ("hanson", "muleshoe"):
        write(tmp_path, building, "point_9_view_0", {"rgb": view()["rgb"]})
        assert Taskonomy(root=tmp_path).name != name
        (tmp_path / building / "rgb" / "point_9_view_0_domain_rgb.png").unlink()
    (tmp_path / "muleshoe/rgb/point_3_view_0_domain_rgb.png").rename(
        tmp_path / "muleshoe/rgb/point_4_view_0_domain_rgb.png"
    )
    assert Taskonomy(root=tmp_path).name != name


def test_images_of_a_class_show_it(tmp_path: Path) -> None:
    bed, chair = np.full((SIDE, SIDE), 6, np.uint8), np.full((SIDE, SIDE), 3, np.uint8)
    for number in range(6):
        ids = bed if number % 2 else chair
        for building in ("hanson", "muleshoe"):
            write(tmp_path, building, f"point_{number}_view_0", view(segment_semantic=ids))
    source = Taskonomy(root=tmp_path, max_images=2)
    beds = {f"hanson/point_{n}_view_0" for n in (1, 3, 5)}
    assert set(source.pool("segment_semantic/bed")) == beds
    assert len(source.pool("segment_semantic")) == 6
    queries = source.queries("segment_semantic/bed")
    assert len(queries) == 2
    assert all(int(id.split("_")[1]) % 2 for id in queries)
    assert source.pool("segment_semantic/sink") == []
    assert Taskonomy(root=tmp_path).queries("segment_semantic/bed")[:2] == queries


def test_damaged_files_are_left_out_and_noted(tmp_path: Path) -> None:
    root = write_all(tmp_path)
    broken = root / "muleshoe/keypoints3d/point_3_view_0_domain_keypoints3d.png"
    broken.write_bytes(broken.read_bytes()[:60])
    lost = root / "muleshoe/reshading/point_3_view_0_domain_reshading.png"
    lost.unlink()
    visual = root / "muleshoe/keypoints2d/point_3_view_0_domain_keypoints2d.png"
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(visual)
    normal = root / "muleshoe/normal/point_3_view_0_domain_normal.png"
    Image.fromarray(colours((128, 128, 0), 48)).save(normal)
    ids = root / "muleshoe/segment_semantic/point_3_view_0_domain_segmentsemantic.png"
    ids.write_bytes(b"")
    source = Taskonomy(root=root)
    reasons = {
        broken: "damaged or cut off",
        lost: "cannot be read",
        visual: "has 16 bits in one channel",
        normal: "differ in size",
        ids: "empty",
    }
    assert source.queries("segment_semantic/chair") == []
    for task in ("keypoints3d", "reshading", "keypoints2d", "normal", "segment_semantic"):
        assert source.read(task, "muleshoe/point_3_view_0") is None
    assert len(source.skipped) == len(reasons)
    for path, reason in reasons.items():
        assert reason in source.skipped[path.relative_to(root).as_posix()]
    assert read(source, "depth_zbuffer").valid.all()
    assert source.read("keypoints3d", "hanson/point_7_view_1") is not None


def test_an_image_without_any_label_is_noted(tmp_path: Path) -> None:
    source = Taskonomy(root=write_all(tmp_path, depth_euclidean=words(65535)))
    assert source.read("depth_euclidean", "muleshoe/point_3_view_0") is None
    assert "no pixel has a label" in next(iter(source.skipped.values()))
    assert source.read("keypoints2d", "muleshoe/point_3_view_0") is not None
