"""Taskonomy: the numbers of every domain, and what each preset scores."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datasets.taskonomy_files import (
    DENSE,
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

from diffsight.datasets.taskonomy import Taskonomy
from diffsight.datasets.taskonomy_labels import texture_edges

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


def test_vtms_measures_are_those_of_its_preset(tmp_path: Path) -> None:
    root = write_all(tmp_path)
    tasks = {preset: Taskonomy(root=root, preset=preset).tasks for preset in ("vtm", "clean")}
    for name in DENSE:
        normal = name == "normal"
        assert tasks["vtm"][name].measure == ("merr_vtm" if normal else "vtm_mae")
        assert tasks["clean"][name].measure == ("merr_true" if normal else "rmse_valid")
        assert tasks["vtm"][name].clip == (None if normal else (0, 1))
    native = Taskonomy(root=root, preset="native").tasks["depth_zbuffer"]
    assert (native.kind, native.unit, native.clip) == ("depth", "m", None)


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


@pytest.mark.parametrize("task", ["depth_euclidean", "depth_zbuffer"])
def test_a_count_that_is_no_depth_is_none_in_metres(tmp_path: Path, task: str) -> None:
    counts = words(2000)
    counts[0], counts[1], counts[2] = 0, 64500, 65535
    found = read(Taskonomy(root=write_all(tmp_path, **{task: counts}), preset="native"), task)
    assert found.valid.any(dim=1).tolist() == [False] * 3 + [True] * (SIDE - 3)
    assert float(found.value.max()) == 2000 / 512


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
