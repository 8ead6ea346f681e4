"""Taskonomy: four layouts on disk, every domain's numbers, and what each preset scores."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets.source import Labelled
from diffsight.datasets.taskonomy import SPLITS, TRAIN_BUILDINGS, Taskonomy
from diffsight.datasets.taskonomy_labels import texture_edges
from diffsight.types import InputError

PATHS = {
    "building": "{b}/{t}/{v}_domain_{d}.png",
    "merged": "{t}/{b}_{v}_domain_{d}.png",
    "task": "{t}/{b}/{v}_domain_{d}.png",
    "omnidata": "{t}/taskonomy/{b}/{v}_domain_{d}.png",
}
OLD = {
    **{"depth_euclidean": "mist", "depth_zbuffer": "depth", "edge_texture": "edge2d"},
    **{"edge_occlusion": "edge", "keypoints2d": "keypoint2d", "keypoints3d": "keypoint"},
    **{"reshading": "reshade", "principal_curvature": "curvature"},
}
DENSE = (
    *("depth_euclidean", "depth_zbuffer", "edge_texture", "edge_occlusion", "keypoints2d"),
    *("keypoints3d", "reshading", "principal_curvature", "normal"),
)
SIDE = 32
VIEWS = (
    ("hanson", "point_7_view_1"),
    ("woodbine", "point_0_view_12"),
    ("muleshoe", "point_3_view_0"),
)


def words(value: int, side: int = SIDE) -> np.ndarray:
    return np.full((side, side), value, np.uint16)


def colours(rgb: tuple[int, int, int], side: int = SIDE) -> np.ndarray:
    return np.broadcast_to(np.array(rgb, np.uint8), (side, side, 3)).copy()


def view(side: int = SIDE, seed: int = 0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Files of one view: a wall at 4 m, a chair in its lower half."""
    ids = np.ones((side, side), np.uint8)
    ids[side // 2 :] = 3
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return {
        "rgb": noise,
        "depth_euclidean": words(2048, side),
        "depth_zbuffer": words(2000, side),
        "edge_texture": words(1000, side),
        "edge_occlusion": words(100, side),
        "keypoints2d": words(164, side),
        "keypoints3d": words(8192, side),
        "reshading": colours((51, 51, 51), side),
        "principal_curvature": colours((127, 140, 0), side),
        "normal": colours((128, 128, 0), side),
        "segment_semantic": ids,
    } | changes


def write(
    root: Path, building: str, name: str, files: dict[str, np.ndarray], layout: str = "building"
) -> None:
    for task, pixels in files.items():
        domain = "segmentsemantic" if task == "segment_semantic" else task
        path = root / PATHS[layout].format(b=building, t=task, v=name, d=domain)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_all(root: Path, layout: str = "building", **changes: np.ndarray) -> Path:
    for building, name in VIEWS:
        write(root, building, name, view(**changes), layout)
    return root


def read(source: Taskonomy, task: str) -> Labelled:
    found = source.read(task, "muleshoe/point_3_view_0")
    assert found is not None, source.skipped
    return found


def one(values: torch.Tensor) -> list[float]:
    """The channels of a map that is the same everywhere."""
    flat = values.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


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
    assert "3" in source.name
    assert source.name != Taskonomy(root=tmp_path, tasks=["edge_texture"], max_images=4).name
    with pytest.raises(InputError, match="max_images 0"):
        Taskonomy(root=tmp_path, max_images=0)


NATIVE = {
    "depth_euclidean": [4.0],
    "depth_zbuffer": [3.90625],
    "edge_texture": [1000 / 65535 / 0.08],
    "edge_occlusion": [100 / 65536 / 0.01],
    "keypoints2d": [164 / 65536 / 0.005],
    "keypoints3d": [0.125],
    "reshading": [0.2],
    "principal_curvature": [127 / 255, 140 / 255],
}
LOG_E, LOG_Z = math.log(2049) / math.log(65536), math.log(2001) / math.log(65536)
VTM = NATIVE | {
    "depth_euclidean": [1.0, 1.0, 1.0, (LOG_E - 0.68) / 0.02, 0.0],
    "depth_zbuffer": [(LOG_Z - 0.4) / 0.6],
    "edge_occlusion": [1.0, 1.0, 100 / 65536 / 0.002, 100 / 65536 / 0.003, 100 / 65536 / 0.01],
}


@pytest.mark.parametrize("task", NATIVE)
def test_numbers(tmp_path: Path, task: str) -> None:
    root = write_all(tmp_path)
    native = read(Taskonomy(root=root, preset="native"), task)
    assert one(native.value) == pytest.approx(NATIVE[task], abs=1e-6)
    assert native.valid.all()
    assert native.truth is None
    if task == "edge_texture":
        return
    for preset in ("vtm", "clean"):
        found = read(Taskonomy(root=root, preset=preset), task)
        truth, scored = found.scored
        assert one(found.value) == pytest.approx(VTM[task], abs=2e-5)
        assert truth.flatten(1).amin(1).tolist() == pytest.approx(VTM[task], abs=2e-5)
        assert truth.flatten(1).amax(1).tolist() == pytest.approx(VTM[task], abs=2e-5)
        assert truth.shape[-2:] == (256, 256)
        assert scored.all()


def test_what_ends_at_one(tmp_path: Path) -> None:
    root = write_all(tmp_path, keypoints2d=words(600), edge_texture=words(60000))
    source = Taskonomy(root=root, preset="native")
    assert one(read(source, "keypoints2d").value) == [1.0]
    assert one(read(source, "edge_texture").value) == [1.0]


@pytest.mark.parametrize("task", ["depth_euclidean", "depth_zbuffer", "edge_occlusion"])
def test_channels_are_on_their_curve(tmp_path: Path, task: str) -> None:
    source = Taskonomy(root=write_all(tmp_path))
    found = source.tasks[task]
    number = {
        "depth_euclidean": LOG_E,
        "depth_zbuffer": LOG_Z,
        "edge_occlusion": math.log(1 + 99 * 100 / 65536 / 0.01) / math.log(100),
    }[task]
    assert found.curve is not None
    assert found.limits[0] < number < found.limits[1]
    assert found.curve(torch.tensor([number]))[0].tolist() == pytest.approx(VTM[task], abs=1e-4)
    along = found.curve(torch.linspace(*found.limits, 50))
    assert (along.diff(dim=0) >= 0).all()
    assert len(along.unique(dim=0)) == 50


def half(value: np.ndarray, empty: np.ndarray, at: int) -> np.ndarray:
    """The right part, from column ``at`` on, is empty."""
    mixed = value.copy()
    mixed[:, at:] = empty[:, at:]
    return mixed


def with_hole(tmp_path: Path, side: int, at: int) -> Path:
    files = view(side)
    for task, none in (("depth_euclidean", 65535), ("depth_zbuffer", 65535)):
        files[task] = half(files[task], words(none, side), at)
    files["normal"] = half(files["normal"], colours((128, 128, 128), side), at)
    files["principal_curvature"] = half(files["principal_curvature"], colours((0, 0, 0), side), at)
    for building, name in VIEWS:
        write(tmp_path, building, name, files)
    return tmp_path


def test_what_is_learned_from_has_depth(tmp_path: Path) -> None:
    root = with_hole(tmp_path, SIDE, 20)
    for preset in ("vtm", "clean", "native"):
        source = Taskonomy(root=root, preset=preset)
        for task in DENSE:
            found = read(source, task)
            whole = task in ("keypoints2d", "edge_texture")
            assert found.valid[:, :20].all()
            assert found.valid[:, 20:].all() == found.valid[:, 20:].any() == whole
            assert whole or not found.value[:, :, 20:].any()


def test_vtm_scores_some_tasks_everywhere(tmp_path: Path) -> None:
    root = with_hole(tmp_path, SIDE, 20)
    for preset in ("vtm", "clean"):
        source = Taskonomy(root=root, preset=preset)
        everywhere = [task for task in DENSE if read(source, task).scored[1].all()]
        both = ["edge_texture", "keypoints2d"]
        assert everywhere == [*both, *(("reshading", "normal") if preset == "vtm" else ())]


def test_normals(tmp_path: Path) -> None:
    root = with_hole(tmp_path, SIDE, 20)
    found = read(Taskonomy(root=root), "normal")
    raw = np.array([128 / 127.5 - 1, 128 / 127.5 - 1, -1])
    unit = raw / np.linalg.norm(raw)
    np.testing.assert_allclose(found.value[:, 0, 0], unit, atol=1e-6)
    truth, _ = found.scored
    # encoded again, these are the bytes of the file, also the grey ones that are no direction
    np.testing.assert_allclose((truth[:, 0, 0] + 1) / 2, np.array([128, 128, 0]) / 255, atol=1e-6)
    np.testing.assert_allclose((truth[:, 0, -1] + 1) / 2, np.full(3, 128) / 255, atol=1e-6)
    clean, scored = read(Taskonomy(root=root, preset="clean"), "normal").scored
    np.testing.assert_allclose(clean[:, 0, 0], unit, atol=1e-6)
    assert not scored[:, -1].any()
    assert not clean[:, :, -1].any()


def test_grey_without_direction_is_no_normal_even_where_depth_is(tmp_path: Path) -> None:
    normal = half(view()["normal"], colours((128, 128, 128)), 20)
    found = read(Taskonomy(root=write_all(tmp_path, normal=normal)), "normal")
    assert found.valid[0].tolist() == [True] * 20 + [False] * 12


def test_vtm_lets_mixtures_with_no_depth_pass(tmp_path: Path) -> None:
    """Column 255 of 512 is the last valid one; of 256 columns, 127 and 128 see both sides."""
    root = with_hole(tmp_path, 512, 256)
    files = {p: read(Taskonomy(root=root, preset=p), "depth_zbuffer") for p in ("vtm", "clean")}
    (vtm, vtm_scored), (clean, clean_scored) = (files[p].scored for p in ("vtm", "clean"))
    right = (LOG_Z - 0.4) / 0.6
    assert vtm_scored[0].nonzero().max() == 128  # 1/8 of 2048 and 7/8 of 65535 is under 64500
    assert clean_scored[0].nonzero().max() == 126
    for column, share in ((127, 1 / 8), (128, 7 / 8)):
        mixed = math.log(1 + (1 - share) * 2000 + share * 65535) / math.log(65536)
        assert float(vtm[0, 0, column]) == pytest.approx((mixed - 0.4) / 0.6, abs=1e-4)
    assert float(vtm[0, 0, 126]) == pytest.approx(right, abs=1e-5)
    assert clean[0][clean_scored].tolist() == pytest.approx([right] * (256 * 127), abs=1e-5)
    assert vtm_scored.sum() - clean_scored.sum() == 2 * 256


def test_merged_files_of_256_pixels_are_taken_as_they_are(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(1000, 60000, (256, 256)).astype(np.uint16)
    files = view(256, keypoints3d=counts)
    for building, name in VIEWS:
        write(tmp_path, building, name, files, "merged")
    truth, _ = read(Taskonomy(root=tmp_path), "keypoints3d").scored
    np.testing.assert_array_equal(truth[0], counts.astype(np.float32) / 65536)


def filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """By loops, with the first and the last columns and rows repeated in their own order."""
    n = len(kernel) // 2
    wide = np.concatenate([x[:, :n], x, x[:, -n:]], axis=1)
    wide = np.concatenate([wide[:n], wide, wide[-n:]], axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape)
    return np.einsum("hwij,ij->hw", windows, kernel)


def test_texture_edges() -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 40, 48)).astype(np.float64)
    image[:, :, 24:] = 0
    found = texture_edges(torch.from_numpy(image).float())
    for channel, (side, sigma) in zip(found, ((3, 1), (11, 2), (19, 3)), strict=True):
        y, x = np.mgrid[:side, :side] - side // 2
        smooth = filtered(image.sum(0), np.exp(-(x * x + y * y) / (2 * sigma * sigma)))
        sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        size = np.hypot(filtered(smooth, sobel), filtered(smooth, sobel.T))
        np.testing.assert_allclose(channel, np.clip(size / size.max(), 0, 0.4) / 0.4, atol=2e-5)
        assert channel.max() == 1
    assert texture_edges(torch.full((3, 32, 32), 7.0)).max() < 1e-6  # not noise of rounding


def test_texture_is_scored_at_vtms_size_and_learned_at_the_images(tmp_path: Path) -> None:
    rgb = view(512)["rgb"]
    for building, name in VIEWS:
        write(tmp_path, building, name, {"rgb": rgb})
    found = read(Taskonomy(root=tmp_path), "edge_texture")
    small = np.array(Image.fromarray(rgb).resize((256, 256), Image.Resampling.BILINEAR))
    wanted = texture_edges(torch.from_numpy(small).permute(2, 0, 1).float())
    assert found.truth is not None
    torch.testing.assert_close(found.truth, wanted)
    assert found.value.shape == (3, 512, 512)
    assert (found.value[:, 10, 10] - wanted[:, 5, 5]).abs().max() < 0.2


def test_classes(tmp_path: Path) -> None:
    ids = np.repeat(np.array([0, 1, 2, 3, 9, 17, 8, 15], np.uint8), 4)[None].repeat(SIDE, axis=0)
    root = write_all(tmp_path, segment_semantic=ids)
    source = Taskonomy(root=root)
    every = source.tasks["segment_semantic"].classes
    assert every[0] == "background"
    found = read(source, "segment_semantic")
    wanted = [0, 0, 0, every.index("chair"), every.index("tv"), every.index("vase"), 0, 0]
    assert found.value[0, 0, ::4].tolist() == wanted
    assert found.valid[0, ::4].tolist() == [False] + [True] * 7
    truth, scored = found.scored
    assert truth[0, 0, ::32].tolist() == wanted
    assert scored[0, ::32].tolist() == [False] + [True] * 7

    tv = read(source, "segment_semantic/tv")
    assert source.tasks["segment_semantic/tv"].classes == ("other", "tv")
    assert tv.value[0, 0, ::4].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert not tv.valid[0, 0]
    assert tv.scored[1].all()  # VTM: uncertain is background
    for preset in ("clean", "native"):
        _, scored = read(Taskonomy(root=root, preset=preset), "segment_semantic/tv").scored
        assert [bool(scored[0, 0]), bool(scored[0, -1])] == [False, True]


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
