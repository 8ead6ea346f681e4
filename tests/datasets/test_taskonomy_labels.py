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
    label,
    one,
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
    value, valid = label(root, task, preset="native")
    assert one(value) == pytest.approx(NATIVE[task], abs=1e-6)
    assert valid.all()
    same, _ = label(root, task, preset="native", scored=True)
    assert torch.equal(value, same)
    if task == "edge_texture":
        return
    for preset in ("vtm", "clean"):
        value, _ = label(root, task, preset=preset)
        truth, scored = label(root, task, preset=preset, scored=True)
        assert one(value) == pytest.approx(VTM[task], abs=2e-5)
        assert truth.flatten(1).amin(1).tolist() == pytest.approx(VTM[task], abs=2e-5)
        assert truth.flatten(1).amax(1).tolist() == pytest.approx(VTM[task], abs=2e-5)
        assert truth.shape[-2:] == (256, 256)
        assert scored.all()


def test_what_ends_at_one(tmp_path: Path) -> None:
    root = write_all(tmp_path, keypoints2d=words(600), edge_texture=words(60000))
    assert one(label(root, "keypoints2d", preset="native")[0]) == [1.0]
    assert one(label(root, "edge_texture", preset="native")[0]) == [1.0]


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


def test_training_labels_have_depth(tmp_path: Path) -> None:
    root = with_hole(tmp_path, SIDE, 20)
    for preset in ("vtm", "clean", "native"):
        for task in DENSE:
            value, valid = label(root, task, preset=preset)
            whole = task in ("keypoints2d", "edge_texture")
            assert valid[:, :20].all()
            assert valid[:, 20:].all() == valid[:, 20:].any() == whole
            assert whole or not value[:, :, 20:].any()


@pytest.mark.parametrize("task", ["depth_euclidean", "depth_zbuffer"])
def test_a_count_that_is_no_depth_is_none_in_metres(tmp_path: Path, task: str) -> None:
    counts = words(2000)
    counts[0], counts[1], counts[2] = 0, 64500, 65535
    value, valid = label(write_all(tmp_path, **{task: counts}), task, preset="native")
    assert valid.any(dim=1).tolist() == [False] * 3 + [True] * (SIDE - 3)
    assert float(value.max()) == 2000 / 512


def test_vtm_scores_some_tasks_everywhere(tmp_path: Path) -> None:
    root = with_hole(tmp_path, SIDE, 20)
    for preset in ("vtm", "clean"):
        everywhere = [t for t in DENSE if label(root, t, preset=preset, scored=True)[1].all()]
        both = ["edge_texture", "keypoints2d"]
        assert everywhere == [*both, *(("reshading", "normal") if preset == "vtm" else ())]


def test_normals(tmp_path: Path) -> None:
    root = with_hole(tmp_path, SIDE, 20)
    value, _ = label(root, "normal")
    raw = np.array([128 / 127.5 - 1, 128 / 127.5 - 1, -1])
    unit = raw / np.linalg.norm(raw)
    np.testing.assert_allclose(value[:, 0, 0], unit, atol=1e-6)
    truth, _ = label(root, "normal", scored=True)
    # encoded again, these are the bytes of the file, also the grey ones that are no direction
    np.testing.assert_allclose((truth[:, 0, 0] + 1) / 2, np.array([128, 128, 0]) / 255, atol=1e-6)
    np.testing.assert_allclose((truth[:, 0, -1] + 1) / 2, np.full(3, 128) / 255, atol=1e-6)
    clean, scored = label(root, "normal", preset="clean", scored=True)
    np.testing.assert_allclose(clean[:, 0, 0], unit, atol=1e-6)
    assert not scored[:, -1].any()
    assert not clean[:, :, -1].any()


def test_grey_without_direction_is_no_normal_even_where_depth_is(tmp_path: Path) -> None:
    normal = half(view()["normal"], colours((128, 128, 128)), 20)
    _, valid = label(write_all(tmp_path, normal=normal), "normal")
    assert valid[0].tolist() == [True] * 20 + [False] * 12


def test_vtm_scores_mixtures_with_no_depth(tmp_path: Path) -> None:
    """Column 255 of 512 is the last valid one; of 256 columns, 127 and 128 see both sides."""
    root = with_hole(tmp_path, 512, 256)
    (vtm, vtm_scored), (clean, clean_scored) = (
        label(root, "depth_zbuffer", preset=preset, scored=True) for preset in ("vtm", "clean")
    )
    right = (LOG_Z - 0.4) / 0.6
    assert vtm_scored[0].nonzero().max() == 128  # 1/8 of 2048 and 7/8 of 65535 is under 64500
    assert clean_scored[0].nonzero().max() == 126
    for column, part in ((127, 1 / 8), (128, 7 / 8)):
        mixed = math.log(1 + (1 - part) * 2000 + part * 65535) / math.log(65536)
        assert float(vtm[0, 0, column]) == pytest.approx((mixed - 0.4) / 0.6, abs=1e-4)
    assert float(vtm[0, 0, 126]) == pytest.approx(right, abs=1e-5)
    assert clean[0][clean_scored].tolist() == pytest.approx([right] * (256 * 127), abs=1e-5)
    assert vtm_scored.sum() - clean_scored.sum() == 2 * 256


def test_merged_files_of_256_pixels_are_taken_as_they_are(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(1000, 60000, (256, 256)).astype(np.uint16)
    files = view(256, keypoints3d=counts)
    for building, name in VIEWS:
        write(tmp_path, building, name, files, "merged")
    truth, _ = label(tmp_path, "keypoints3d", scored=True)
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
    small = np.array(Image.fromarray(rgb).resize((256, 256), Image.Resampling.BILINEAR))
    wanted = texture_edges(torch.from_numpy(small).permute(2, 0, 1).float())
    truth, scored = label(tmp_path, "edge_texture", scored=True)
    torch.testing.assert_close(truth, wanted)
    assert scored.all()
    value, _ = label(tmp_path, "edge_texture")
    assert value.shape == (3, 512, 512)
    assert (value[:, 10, 10] - wanted[:, 5, 5]).abs().max() < 0.2


def test_classes(tmp_path: Path) -> None:
    ids = np.repeat(np.array([0, 1, 2, 3, 9, 17, 8, 15], np.uint8), 4)[None].repeat(SIDE, axis=0)
    root = write_all(tmp_path, segment_semantic=ids)
    every = Taskonomy(root=root, task="segment_semantic").class_names["semantic"]
    assert every[0] == "background"
    value, valid = label(root, "segment_semantic")
    wanted = [0, 0, 0, every.index("chair"), every.index("tv"), every.index("vase"), 0, 0]
    assert value.dtype == torch.int64
    assert value[0, ::4].tolist() == wanted
    assert valid[0, ::4].tolist() == [False] + [True] * 7
    truth, scored = label(root, "segment_semantic", scored=True)
    assert truth[0, ::32].tolist() == wanted
    assert scored[0, ::32].tolist() == [False] + [True] * 7

    tv = Taskonomy(root=root, task="segment_semantic/tv")
    assert tv.class_names == {"semantic": ("other", "tv")}
    value, valid = label(root, "segment_semantic/tv")
    assert value[0, ::4].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert not valid[0, 0]
    assert label(root, "segment_semantic/tv", scored=True)[1].all()  # VTM: uncertain is background
    for preset in ("clean", "native"):
        _, scored = label(root, "segment_semantic/tv", preset=preset, scored=True)
        assert [bool(scored[0, 0]), bool(scored[0, -1])] == [False, True]
