"""Taskonomy: the label values of every domain, and the pixels that each preset scores."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_taskonomy import (
    DENSE,
    SIDE,
    VIEWS,
    channel_values,
    make_counts,
    make_picture,
    make_view,
    read_label,
    write_view,
    write_views,
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
def test_label_values_of_every_task(tmp_path: Path, task: str) -> None:
    root = write_views(tmp_path)
    value, valid = read_label(root, task, preset="native")
    assert channel_values(value) == pytest.approx(NATIVE[task], abs=1e-6)
    assert valid.all()
    same, _ = read_label(root, task, preset="native", scored=True)
    assert torch.equal(value, same)
    if task == "edge_texture":
        return
    for preset in ("vtm", "clean"):
        value, _ = read_label(root, task, preset=preset)
        truth, scored = read_label(root, task, preset=preset, scored=True)
        assert channel_values(value) == pytest.approx(VTM[task], abs=2e-5)
        assert truth.flatten(1).amin(1).tolist() == pytest.approx(VTM[task], abs=2e-5)
        assert truth.flatten(1).amax(1).tolist() == pytest.approx(VTM[task], abs=2e-5)
        assert truth.shape[-2:] == (256, 256)
        assert scored.all()


def test_strong_edges_and_keypoints_are_clamped_to_one(tmp_path: Path) -> None:
    root = write_views(tmp_path, keypoints2d=make_counts(600), edge_texture=make_counts(60000))
    assert channel_values(read_label(root, "keypoints2d", preset="native")[0]) == [1.0]
    assert channel_values(read_label(root, "edge_texture", preset="native")[0]) == [1.0]


def replace_right(value: np.ndarray, empty: np.ndarray, at: int) -> np.ndarray:
    """Return ``value`` with the columns from ``at`` on replaced by those of ``empty``."""
    mixed = value.copy()
    mixed[:, at:] = empty[:, at:]
    return mixed


def write_views_with_hole(tmp_path: Path, side: int, at: int) -> Path:
    """Write views without depth, normals and curvature from column ``at`` on; return the root."""
    files = make_view(side)
    for task, none in (("depth_euclidean", 65535), ("depth_zbuffer", 65535)):
        files[task] = replace_right(files[task], make_counts(none, side), at)
    files["normal"] = replace_right(files["normal"], make_picture((128, 128, 128), side), at)
    files["principal_curvature"] = replace_right(
        files["principal_curvature"], make_picture((0, 0, 0), side), at
    )
    for building, name in VIEWS:
        write_view(tmp_path, building, name, files)
    return tmp_path


def test_training_labels_are_valid_only_with_depth(tmp_path: Path) -> None:
    root = write_views_with_hole(tmp_path, SIDE, 20)
    for preset in ("vtm", "clean", "native"):
        for task in DENSE:
            value, valid = read_label(root, task, preset=preset)
            is_complete = task in ("keypoints2d", "edge_texture")
            assert valid[:, :20].all()
            assert valid[:, 20:].all() == valid[:, 20:].any() == is_complete
            assert is_complete or not value[:, :, 20:].any()


@pytest.mark.parametrize("task", ["depth_euclidean", "depth_zbuffer"])
def test_pixel_values_without_depth_are_invalid(tmp_path: Path, task: str) -> None:
    counts = make_counts(2000)
    counts[0], counts[1], counts[2] = 0, 64500, 65535
    value, valid = read_label(write_views(tmp_path, **{task: counts}), task, preset="native")
    assert valid.any(dim=1).tolist() == [False] * 3 + [True] * (SIDE - 3)
    assert float(value.max()) == 2000 / 512


def test_some_tasks_are_scored_also_without_depth(tmp_path: Path) -> None:
    root = write_views_with_hole(tmp_path, SIDE, 20)
    for preset in ("vtm", "clean"):
        everywhere = [t for t in DENSE if read_label(root, t, preset=preset, scored=True)[1].all()]
        always = ["edge_texture", "keypoints2d"]
        assert everywhere == [*always, *(("reshading", "normal") if preset == "vtm" else ())]


def test_only_vtm_scores_grey_pixels_of_normals(tmp_path: Path) -> None:
    root = write_views_with_hole(tmp_path, SIDE, 20)
    value, _ = read_label(root, "normal")
    raw = np.array([128 / 127.5 - 1, 128 / 127.5 - 1, -1])
    unit = raw / np.linalg.norm(raw)
    np.testing.assert_allclose(value[:, 0, 0], unit, atol=1e-6)
    truth, _ = read_label(root, "normal", scored=True)
    # scored normals keep the pixel values of the file; grey pixels have no direction
    np.testing.assert_allclose((truth[:, 0, 0] + 1) / 2, np.array([128, 128, 0]) / 255, atol=1e-6)
    np.testing.assert_allclose((truth[:, 0, -1] + 1) / 2, np.full(3, 128) / 255, atol=1e-6)
    clean, scored = read_label(root, "normal", preset="clean", scored=True)
    np.testing.assert_allclose(clean[:, 0, 0], unit, atol=1e-6)
    assert not scored[:, -1].any()
    assert not clean[:, :, -1].any()


def test_grey_is_not_a_valid_normal_even_with_depth(tmp_path: Path) -> None:
    normal = replace_right(make_view()["normal"], make_picture((128, 128, 128)), 20)
    _, valid = read_label(write_views(tmp_path, normal=normal), "normal")
    assert valid[0].tolist() == [True] * 20 + [False] * 12


def test_only_vtm_scores_depth_that_is_interpolated_with_missing_depth(tmp_path: Path) -> None:
    # column 255 of 512 is the last valid one; columns 127 and 128 of 256 are interpolated across it
    root = write_views_with_hole(tmp_path, 512, 256)
    (vtm, vtm_scored), (clean, clean_scored) = (
        read_label(root, "depth_zbuffer", preset=preset, scored=True) for preset in ("vtm", "clean")
    )
    right = (LOG_Z - 0.4) / 0.6
    # 1/8 of 2000 plus 7/8 of 65535 is less than the limit of 64500
    assert vtm_scored[0].nonzero().max() == 128
    assert clean_scored[0].nonzero().max() == 126
    for column, part in ((127, 1 / 8), (128, 7 / 8)):
        mixed = math.log(1 + (1 - part) * 2000 + part * 65535) / math.log(65536)
        assert float(vtm[0, 0, column]) == pytest.approx((mixed - 0.4) / 0.6, abs=1e-4)
    assert float(vtm[0, 0, 126]) == pytest.approx(right, abs=1e-5)
    assert clean[0][clean_scored].tolist() == pytest.approx([right] * (256 * 127), abs=1e-5)
    assert vtm_scored.sum() - clean_scored.sum() == 2 * 256


def test_files_of_256_pixels_are_not_resized(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(1000, 60000, (256, 256)).astype(np.uint16)
    files = make_view(256, keypoints3d=counts)
    for building, name in VIEWS:
        write_view(tmp_path, building, name, files, "merged")
    truth, _ = read_label(tmp_path, "keypoints3d", scored=True)
    np.testing.assert_array_equal(truth[0], counts.astype(np.float32) / 65536)


def filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the convolution of an image whose border pixels are repeated."""
    n = len(kernel) // 2
    wide = np.concatenate([x[:, :n], x, x[:, -n:]], axis=1)
    wide = np.concatenate([wide[:n], wide, wide[-n:]], axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape)
    return np.einsum("hwij,ij->hw", windows, kernel)


def test_texture_edges_equal_a_direct_computation() -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 40, 48)).astype(np.float64)
    image[:, :, 24:] = 0
    edges = texture_edges(torch.from_numpy(image).float())
    for channel, (side, sigma) in zip(edges, ((3, 1), (11, 2), (19, 3)), strict=True):
        y, x = np.mgrid[:side, :side] - side // 2
        smooth = filtered(image.sum(0), np.exp(-(x * x + y * y) / (2 * sigma * sigma)))
        sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        size = np.hypot(filtered(smooth, sobel), filtered(smooth, sobel.T))
        np.testing.assert_allclose(channel, np.clip(size / size.max(), 0, 0.4) / 0.4, atol=2e-5)
        assert channel.max() == 1
    assert texture_edges(torch.full((3, 32, 32), 7.0)).max() < 1e-6  # a constant image has no edges


def test_texture_edges_are_scored_at_256_pixels_and_trained_at_full_size(tmp_path: Path) -> None:
    rgb = make_view(512)["rgb"]
    for building, name in VIEWS:
        write_view(tmp_path, building, name, {"rgb": rgb})
    small = np.array(Image.fromarray(rgb).resize((256, 256), Image.Resampling.BILINEAR))
    expected = texture_edges(torch.from_numpy(small).permute(2, 0, 1).float())
    truth, scored = read_label(tmp_path, "edge_texture", scored=True)
    torch.testing.assert_close(truth, expected)
    assert scored.all()
    value, _ = read_label(tmp_path, "edge_texture")
    assert value.shape == (3, 512, 512)
    assert (value[:, 10, 10] - expected[:, 5, 5]).abs().max() < 0.2


def test_class_labels_and_their_scored_pixels(tmp_path: Path) -> None:
    ids = np.repeat(np.array([0, 1, 2, 3, 9, 17, 8, 15], np.uint8), 4)[None].repeat(SIDE, axis=0)
    root = write_views(tmp_path, segment_semantic=ids)
    every = Taskonomy(root=root, task="segment_semantic").class_names["semantic"]
    assert every[0] == "background"
    value, valid = read_label(root, "segment_semantic")
    expected = [0, 0, 0, every.index("chair"), every.index("tv"), every.index("vase"), 0, 0]
    assert value.dtype == torch.int64
    assert value[0, ::4].tolist() == expected
    assert valid[0, ::4].tolist() == [False] + [True] * 7
    truth, scored = read_label(root, "segment_semantic", scored=True)
    assert truth[0, ::32].tolist() == expected
    assert scored[0, ::32].tolist() == [False] + [True] * 7

    tv = Taskonomy(root=root, task="segment_semantic/tv")
    assert tv.class_names == {"semantic": ("other", "tv")}
    value, valid = read_label(root, "segment_semantic/tv")
    assert value[0, ::4].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert not valid[0, 0]
    assert read_label(root, "segment_semantic/tv", scored=True)[
        1
    ].all()  # VTM scores uncertain pixels as background
    for preset in ("clean", "native"):
        _, scored = read_label(root, "segment_semantic/tv", preset=preset, scored=True)
        assert [bool(scored[0, 0]), bool(scored[0, -1])] == [False, True]
