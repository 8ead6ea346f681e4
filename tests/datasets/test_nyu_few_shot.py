"""NYU for the few-shot benchmark: depth with and without Eigen's crop, normals, damaged files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_images import write_image
from tests.support_nyu import SIZE, TEST, TRAIN, make_normals, write_normals, write_nyu_pair

from diffsight.datasets.nyu_few_shot import NYUFewShotDepth, NYUNormals, crop_validity
from diffsight.errors import InputError
from diffsight.protocols.depth import NYU_EIGEN_V1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nyu")
    for folder, number in ((TRAIN, 7), (TRAIN, 3), (TEST, 45)):
        write_nyu_pair(root, folder, number)
    return root


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    """Return a folder with normals of one training image (of two) and of the test image."""
    folder = tmp_path / "plane-fit"
    for inner in (f"{TRAIN}/rgb_00003", f"{TEST}/rgb_00045"):
        write_normals(folder / inner)
    return folder


def ids(dataset: NYUFewShotDepth | NYUNormals) -> list[str]:
    return [dataset[index].id for index in range(len(dataset))]


def test_ids_contain_the_split_and_are_ordered(root: Path) -> None:
    assert ids(NYUFewShotDepth(root=root)) == [
        "train/kitchen_0028b/rgb_00003",
        "train/kitchen_0028b/rgb_00007",
    ]
    assert ids(NYUFewShotDepth(root=root, split="test")) == ["test/bathroom/rgb_00045"]


def test_depth_is_valid_within_its_range_and_eigens_crop(root: Path) -> None:
    sample = NYUFewShotDepth(root=root, split="test")[0]
    assert sample.image.shape == (3, 480, 640)
    assert sample.prompt == "bathroom"
    assert NYUFewShotDepth.prompt_source == NYUNormals.prompt_source == "oracle-scene"
    valid = torch.zeros(480, 640, dtype=torch.bool)
    valid[100:300] = True  # above are rows without a measurement, below rows beyond the range
    assert torch.equal(sample.valid["depth_m"], valid)
    depth_m = sample.labels["depth_m"]
    assert depth_m[0, 150, 0] == pytest.approx(0.1)
    assert depth_m[0, 250, 0] == pytest.approx(5.0)
    cropped = NYUFewShotDepth(root=root, split="test", crop=True)[0]
    assert torch.equal(cropped.labels["depth_m"], depth_m)
    scored = cropped.valid["depth_m"]
    assert torch.equal(scored, NYU_EIGEN_V1.mask(depth_m, valid[None])[0])
    assert int(scored.sum()) == 200 * 560


def test_the_crop_equals_that_of_the_protocol() -> None:
    everywhere = torch.ones(1, 480, 640, dtype=torch.bool)
    expected = NYU_EIGEN_V1.mask(torch.ones(1, 480, 640), everywhere)[0]
    assert torch.equal(crop_validity(everywhere[0]), expected)
    assert int(expected.sum()) == 426 * 560


def test_normal_files_are_matched_by_the_names_of_the_images(root: Path, normals: Path) -> None:
    train = NYUNormals(root=root, normals=normals)
    test = NYUNormals(root=root, normals=normals, split="test")
    assert ids(train) == ["train/kitchen_0028b/rgb_00003"]
    assert ids(test) == ["test/bathroom/rgb_00045"]
    for dataset, tolerance in ((test, 0.01), (train, 1e-6)):
        sample = dataset[0]
        expected = torch.from_numpy(make_normals()).permute(2, 0, 1)
        torch.testing.assert_close(sample.labels["normals"], expected, atol=tolerance, rtol=0)
        assert torch.equal(sample.valid["normals"], expected.norm(dim=0) > 0.5)


def test_a_list_selects_samples(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("/kitchen_0028b/rgb_00007.jpg /kitchen_0028b/sync_depth_00007.png 518.9\n")
    assert ids(NYUFewShotDepth(root=root, list_file=path)) == ["train/kitchen_0028b/rgb_00007"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write_nyu_pair(tmp_path, TRAIN, number)
    folder = tmp_path / TRAIN
    image = folder / "rgb_00001.jpg"
    image.write_bytes(image.read_bytes()[:3000])
    Image.new("I;16", SIZE, 20_000).save(folder / "sync_depth_00002.png")
    write_image(folder / "rgb_00003.jpg", size=(320, 240))
    Image.new("I;16", (320, 240), 2000).save(folder / "sync_depth_00003.png")
    dataset = NYUFewShotDepth(root=tmp_path)
    reasons = ("rgb_00001.jpg: damaged or cut off", "no depth between 0.001 and 10 m", "320 x 240")
    for index, reason in enumerate(reasons):
        with pytest.raises(InputError) as error:
            dataset[index]
        assert reason in str(error.value)
        assert "\n" not in str(error.value)
    assert dataset[3].id.endswith("rgb_00004")


def test_normals_of_another_size_are_refused(root: Path, normals: Path) -> None:
    np.save(normals / TRAIN / "rgb_00003.npy", make_normals()[::2, ::2])
    with pytest.raises(InputError, match="normals of 320 x 240 pixels"):
        NYUNormals(root=root, normals=normals)[0]


def test_a_split_without_normals_is_refused(root: Path, normals: Path) -> None:
    (normals / TEST / "rgb_00045.png").unlink()
    with pytest.raises(InputError, match=r"official_splits.test: holds no normals of the test"):
        NYUNormals(root=root, normals=normals, split="test")
    with pytest.raises(InputError, match=r"nowhere.sync: holds no normals of the train"):
        NYUNormals(root=root, normals=normals / "nowhere")


def test_the_official_training_split_has_depth_and_normals(tmp_path: Path) -> None:
    folder = "official_splits/train/kitchen"
    write_nyu_pair(tmp_path, folder, 2)
    write_nyu_pair(tmp_path, folder, 5)
    stem = tmp_path / "normals" / folder / "rgb_00005"
    write_normals(stem)
    depth = NYUFewShotDepth(root=tmp_path, split="official-train")
    assert [depth[i].id for i in range(len(depth))] == [
        "official-train/kitchen/rgb_00002",
        "official-train/kitchen/rgb_00005",
    ]
    normals = NYUNormals(root=tmp_path, normals=tmp_path / "normals", split="official-train")
    assert [normals[i].id for i in range(len(normals))] == ["official-train/kitchen/rgb_00005"]
