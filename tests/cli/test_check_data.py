"""``diffsight check-data``: reports of whole data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import support_nuscenes
from tests.support_datasets import write_ade20k, write_people
from tests.support_images import write_depth, write_image
from tests.support_refcoco import make_ref, write_refcoco

from diffsight.cli import main
from diffsight.datasets import NuScenes, RefCOCO
from diffsight.datasets.check import CHECKABLE_DATASETS, CheckableDataset


def write_small_ade20k(root: Path) -> Path:
    """Write a training and a validation image with the same content; return the root."""
    values = np.full((20, 30), 3, np.uint8)
    values[:10] = 0
    write_ade20k(root, values, "training", "a")
    write_ade20k(root, values, "validation", "b")
    return root


def test_ade20k_reports_labels_unreadable_files_and_equal_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_small_ade20k(tmp_path)
    wrong = np.full((20, 30), 255, np.uint8)
    write_ade20k(root, wrong, "training", "c")
    assert main(["check-data", "ade20k", str(root), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    training, validation = report["splits"]
    assert (training["count"], training["official"]) == (2, 20210)
    assert training["labelled"] == pytest.approx(0.5)
    assert training["histogram"] == {"wall": 0, "building": 0, "sky": 300}
    (line,) = training["unreadable"]
    assert "c.png: class id 255 is above 150" in line
    assert "2 samples, 20,210 in the literature" in training["notes"]
    assert any("no pixel is 'wall'" in note for note in validation["notes"])
    # the two plain images are the same
    assert report["same_images"] == {"training and validation": 1}
    assert main(["check-data", "ade20k", str(root)]) == 1
    text = capsys.readouterr().out
    for part in ("training: 2 samples, 50.0% of pixels", "100.0% sky", "1 cannot be used", "note:"):
        assert part in text


def test_depth_in_the_wrong_unit_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("sync/kitchen_0001", "official_splits/test/kitchen"):
        folder = tmp_path / split
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), (len(split), 9, 9)).save(folder / "rgb_00000.jpg")
        Image.new("I;16", (40, 30), 3).save(folder / "sync_depth_00000.png")
    assert main(["check-data", "nyu", str(tmp_path), "--json"]) == 1
    train, _ = json.loads(capsys.readouterr().out)["splits"]
    assert train["depth_m"] == pytest.approx([0.003, 0.003, 0.003])
    assert any("but 1 to 6 m is usual for this data set" in note for note in train["notes"])


@pytest.mark.parametrize(("count", "is_wrong"), [(256 * 15, False), (1000 * 15, True)])
def test_the_depth_scale_of_kitti_is_checked(
    count: int, is_wrong: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        image, depth = tmp_path / "raw_data" / f"{split}.png", tmp_path / f"{split}-depth.png"
        write_image(image, size=(1242, 375))
        write_depth(depth, count, size=(1242, 375))
        line = f"/raw_data/{image.name} /{depth.name} 721.5\n"
        (tmp_path / f"eigen_{split}.txt").write_text(line)
    assert main(["check-data", "kitti", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    train = report["splits"][0]
    assert (train["count"], train["official"], train["unreadable"]) == (1, 23158, [])
    assert train["depth_m"] == pytest.approx([count / 256] * 3)
    assert any("check the depth scale of the files" in n for n in train["notes"]) == is_wrong
    assert report["same_images"] == {"train and test": 1}


def test_missing_images_of_refcoco_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = ("train", "train", "train", "train", "train", "train", "val", "testA", "testB")
    refs = [make_ref(1, split, [f"thing {i}", "it"]) for i, split in enumerate(splits)]
    root = write_refcoco(tmp_path, refs)
    assert main(["check-data", "refcoco", str(root), "--json"]) == 1
    train, val, *_ = json.loads(capsys.readouterr().out)["splits"]
    assert (train["count"], train["official"], train["unreadable"]) == (6, 42404, [])
    assert (val["count"], val["official"]) == (1, 3811)
    thing = RefCOCO(root=root, size=None)[0].labels["referent"].sum()
    assert train["histogram"] == {"0": 6 * (24 * 30 - int(thing)), "1": 6 * int(thing)}
    (image,) = (root / "images" / "mscoco" / "images" / "train2014").iterdir()
    image.unlink()
    assert main(["check-data", "refcoco", str(root), "--json"]) == 1
    train = json.loads(capsys.readouterr().out)["splits"][0]
    (line,) = train["unreadable"]  # one image of six samples
    assert image.name in line


def test_the_text_lists_the_first_five_unreadable_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small_ade20k(tmp_path)
    for name in "cdefgh":
        write_ade20k(tmp_path, np.full((20, 30), 255, np.uint8), "training", name)
    assert main(["check-data", "ade20k", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "6 cannot be used" in text
    assert text.count("class id 255 is above 150") == 5
    assert "... and 1 more (--json lists all)" in text


def test_class_ids_that_are_shifted_by_one_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a complete data set has pixels of every class
    whole = CheckableDataset({"training": 1, "validation": 1}, CHECKABLE_DATASETS["ade20k"].build)
    monkeypatch.setitem(CHECKABLE_DATASETS, "ade20k", whole)
    every = np.arange(150, dtype=np.uint8).reshape(15, 10).repeat(2, axis=0).repeat(2, axis=1)
    write_ade20k(tmp_path, every + 1, "training", "a")
    write_ade20k(tmp_path, every, "validation", "b")
    assert main(["check-data", "ade20k", str(tmp_path), "--json"]) == 1
    training, validation = json.loads(capsys.readouterr().out)["splits"]
    assert training["notes"] == []
    (note,) = validation["notes"]
    assert "no pixel is 'flag': were ids shifted down by one" in note


def test_unknown_names_and_missing_folders_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", "ade2k", str(tmp_path)]) == 2
    assert "did you mean 'ade20k'" in capsys.readouterr().err
    assert main(["check-data", "ade20k", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_one_split_is_checked_if_the_others_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CheckableDataset({"training": 1, "validation": 1}, CHECKABLE_DATASETS["ade20k"].build)
    monkeypatch.setitem(CHECKABLE_DATASETS, "ade20k", whole)
    values = np.arange(150, dtype=np.uint8).reshape(15, 10).repeat(2, axis=0).repeat(2, axis=1)
    write_ade20k(tmp_path, values + 1, "validation", "b")
    assert main(["check-data", "ade20k", str(tmp_path)]) == 2
    assert "add --split NAME" in capsys.readouterr().err
    assert main(["check-data", "ade20k", str(tmp_path), "--split", "validation", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in report["splits"]] == ["validation"]
    assert report["same_images"] == {}
    assert main(["check-data", "ade20k", str(tmp_path), "--split", "valid"]) == 2
    assert "ade20k has no split 'valid': did you mean 'validation'?" in capsys.readouterr().err


def test_coco_keypoints_counts_joints_by_visibility(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_people(tmp_path)
    assert main(["check-data", "coco-keypoints", str(tmp_path), "--split", "val", "--json"]) == 1
    (val,) = json.loads(capsys.readouterr().out)["splits"]
    # two people have 17 visible joints each; a crowd and one person have no labelled joint
    assert val["histogram"] == {"without a label": 34, "occluded": 0, "visible": 34}
    assert val["labelled"] == pytest.approx(0.5)
    assert val["notes"] == ["3 samples, 5,000 in the literature"]
    main(["check-data", "coco-keypoints", str(tmp_path), "--split", "val"])
    assert "val: 3 samples, 50.0% of joints labelled" in capsys.readouterr().out


def test_nuscenes_counts_the_cells_of_every_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support_nuscenes.write_nuscenes(tmp_path)
    arguments = ["index-nuscenes", "--root", str(tmp_path), "--version", "v1.0-mini"]
    assert main([*arguments, "--out", str(tmp_path / "trainval.json")]) == 0
    capsys.readouterr()
    assert main(["check-data", "nuscenes", str(tmp_path), "--split", "train", "--json"]) == 1
    (train,) = json.loads(capsys.readouterr().out)["splits"]
    assert next(iter(train["histogram"])) == "drivable_area"
    data = NuScenes(root=tmp_path, index=tmp_path / "trainval.json")
    cells = sum(data[i].labels["map"].sum(dim=(1, 2)) for i in range(len(data)))
    counted = [train["histogram"].get(name, 0) for name in data.class_names["map"]]
    assert counted == [int(count) for count in cells]
