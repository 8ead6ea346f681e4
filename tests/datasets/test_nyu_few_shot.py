"""NYU for the few-shot benchmark: what is learned, what is scored, and files that are damaged."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datasets.disk import write_image

from diffsight.datasets.nyu_few_shot import NYUFewShot, inside_crop
from diffsight.errors import InputError
from diffsight.protocols.depth import NYU_EIGEN_V1

TRAIN, TEST = "sync/kitchen_0028b", "official_splits/test/bathroom"
SIZE = (640, 480)


def write_counts(path: Path) -> np.ndarray:
    """From nothing over 10 cm and 5 m to 10.01 m, in stripes."""
    counts = np.zeros((480, 640), np.uint16)
    counts[100:] = 100
    counts[200:] = 5000
    counts[300:] = 10_010
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(counts).save(path)
    return counts


def write_pair(root: Path, folder: str, number: int) -> None:
    write_image(root / folder / f"rgb_{number:05}.jpg", seed=number, size=SIZE)
    write_counts(root / folder / f"sync_depth_{number:05}.png")


def floor_and_wall() -> np.ndarray:
    """Floor below, a wall seen at 45 degrees above it, and a first row without a direction."""
    normals = np.zeros((480, 640, 3), np.float32)
    normals[:240] = (math.sqrt(0.5), 0, -math.sqrt(0.5))
    normals[240:] = (0, -1, 0)
    normals[0] = 0
    return normals


def write_normals(stem: Path) -> None:
    """Both forms: training as NPY, test as PNG."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if "sync" in stem.parts:
        np.save(stem.with_suffix(".npy"), floor_and_wall())
    else:
        encoded = np.round((floor_and_wall() + 1) * 127.5).astype(np.uint8)
        Image.fromarray(encoded).save(stem.with_suffix(".png"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nyu")
    for folder, number in ((TRAIN, 7), (TRAIN, 3), (TEST, 45)):
        write_pair(root, folder, number)
    return root


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    """Of one of the two training images, and of the test image."""
    folder = tmp_path / "plane-fit"
    for inner in (f"{TRAIN}/rgb_00003", f"{TEST}/rgb_00045"):
        write_normals(folder / inner)
    return folder


def test_supports_come_from_training_and_queries_from_the_test_set(root: Path) -> None:
    source = NYUFewShot(root=root)
    assert source.name == "nyu 2 + 1"
    (task,) = source.tasks.values()
    assert (task.name, task.kind, task.scoring) == ("nyu_depth", "depth", "depth")
    assert (task.bins, task.unit) == (50, "m")
    assert source.pool("nyu_depth") == [
        "train/kitchen_0028b/rgb_00003",
        "train/kitchen_0028b/rgb_00007",
    ]
    assert source.queries("nyu_depth") == ["test/bathroom/rgb_00045"]


def test_depth_is_learned_everywhere_and_scored_in_eigens_crop(root: Path) -> None:
    source = NYUFewShot(root=root)
    sample = source.read("nyu_depth", "test/bathroom/rgb_00045")
    assert sample is not None
    assert sample.image.shape == (3, 480, 640)
    known = torch.zeros(480, 640, dtype=torch.bool)
    known[100:300] = True  # above it nothing was measured, below it is too far
    assert torch.equal(sample.valid, known)
    assert sample.value[0, 150, 0] == pytest.approx(0.1)
    assert sample.value[0, 250, 0] == pytest.approx(5.0)
    truth, scored = sample.scored
    assert torch.equal(truth, sample.value)
    assert torch.equal(scored, NYU_EIGEN_V1.mask(truth, sample.valid[None])[0])
    assert int(scored.sum()) == 200 * 560


def test_the_crop_is_the_protocols() -> None:
    everywhere = torch.ones(1, 480, 640, dtype=torch.bool)
    expected = NYU_EIGEN_V1.mask(torch.ones(1, 480, 640), everywhere)[0]
    assert torch.equal(inside_crop(everywhere[0]), expected)
    assert int(expected.sum()) == 426 * 560


def test_normals_are_found_beside_the_images_names(root: Path, normals: Path) -> None:
    source = NYUFewShot(root=root, normals=normals)
    assert source.name == "nyu 2 + 1, normals plane-fit 1 + 1"
    task = source.tasks["nyu_normal"]
    assert (task.kind, task.scoring, task.bins) == ("normals", "angles", 50)
    assert source.pool("nyu_normal") == ["train/kitchen_0028b/rgb_00003"]
    assert len(source.pool("nyu_depth")) == 2
    (query,) = source.queries("nyu_normal")
    for id, tolerance in ((query, 0.01), (source.pool("nyu_normal")[0], 1e-6)):
        sample = source.read("nyu_normal", id)
        assert sample is not None
        expected = torch.from_numpy(floor_and_wall()).permute(2, 0, 1)
        torch.testing.assert_close(sample.value, expected, atol=tolerance, rtol=0)
        assert torch.equal(sample.valid, expected.norm(dim=0) > 0.5)
        assert torch.equal(sample.scored[1], sample.valid)
    assert source.skipped == {}


def test_a_list_chooses(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("/kitchen_0028b/rgb_00007.jpg /kitchen_0028b/sync_depth_00007.png 518.9\n")
    source = NYUFewShot(root=root, train_list=path)
    assert source.pool("nyu_depth") == ["train/kitchen_0028b/rgb_00007"]
    assert source.name == "nyu 1 + 1"


def test_damaged_files_are_skipped_and_noted(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write_pair(tmp_path, TRAIN, number)
    write_pair(tmp_path, TEST, 45)
    folder = tmp_path / TRAIN
    image = folder / "rgb_00001.jpg"
    image.write_bytes(image.read_bytes()[:3000])
    Image.new("I;16", SIZE, 20_000).save(folder / "sync_depth_00002.png")
    write_image(folder / "rgb_00003.jpg", size=(320, 240))
    Image.new("I;16", (320, 240), 2000).save(folder / "sync_depth_00003.png")
    source = NYUFewShot(root=tmp_path)
    read = [source.read("nyu_depth", id) for id in source.pool("nyu_depth")]
    assert [sample is not None for sample in read] == [False, False, False, True]
    reasons = ("rgb_00001.jpg: damaged or cut off", "no depth between 0.001 and 10 m", "320 x 240")
    assert len(source.skipped) == len(reasons)
    for id, reason in zip(source.pool("nyu_depth"), reasons, strict=False):
        assert reason in source.skipped[id]
        assert "\n" not in source.skipped[id]


def test_normals_of_another_size_are_skipped(root: Path, normals: Path) -> None:
    np.save(normals / TRAIN / "rgb_00003.npy", floor_and_wall()[::2, ::2])
    source = NYUFewShot(root=root, normals=normals)
    (id,) = source.pool("nyu_normal")
    assert source.read("nyu_normal", id) is None
    assert "normals of 320 x 240 pixels" in source.skipped[id]


def test_normals_for_one_half_only(root: Path, normals: Path) -> None:
    (normals / TEST / "rgb_00045.png").unlink()
    with pytest.raises(InputError, match=r"official_splits.test: holds no normals of the test"):
        NYUFewShot(root=root, normals=normals)
    with pytest.raises(InputError, match=r"nowhere.sync: holds no normals of the train"):
        NYUFewShot(root=root, normals=normals / "nowhere")
