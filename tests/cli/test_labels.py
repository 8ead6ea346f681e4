"""``diffsight labels``: conversion between formats, and protection of existing files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_labels import write_coco, write_folder, write_png

from diffsight.cli import main
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat

FORM = LabelFormat("segmentation")


def run(images: Path, labels: Path, to: str, out: Path, *more: str) -> int:
    paths = ["--images", str(images), "--labels", str(labels), "--out", str(out)]
    return main(["labels", *paths, "--to", to, *more])


def test_coco_is_converted_to_all_formats_without_changing_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json")
    before = read_labelled_folder(images, file, FORM)
    targets = {"masks": "masks", "labelme": "shapes", "coco": "new/again.json"}
    for to, name in targets.items():
        assert run(images, file, to, tmp_path / name) == 0
        again = read_labelled_folder(images, tmp_path / name, FORM)
        assert len(again.names) == 3
        for one, other in zip(before, again, strict=True):
            assert (one.labels["semantic"] == other.labels["semantic"]).all()
            assert other.valid["semantic"].all()
    shown = capsys.readouterr().out
    assert "labels of 3 image(s) with 3 classes in " in shown
    assert f"read them with --classes {tmp_path / 'masks' / 'classes.txt'}" in shown
    assert (tmp_path / "masks" / "classes.txt").read_text() == (
        "id, name\n0, background\n3, grass\n8, house\n"
    )


def test_classes_and_invalid_work_as_in_adapt(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path, lambda c, p: write_png(np.where(c == 2, 9, c), p))
    (tmp_path / "names.txt").write_text("sky\ngrass\n")
    more = ["--classes", str(tmp_path / "names.txt"), "--invalid", "9"]
    assert run(images, labels, "masks", tmp_path / "out", *more) == 0
    ids = np.array(Image.open(tmp_path / "out" / "p0.png"))
    assert np.unique(ids).tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("masks", "labels", "labels: is an input of the command: choose another --out"),
        ("masks", "images", "images: is an input of the command: choose another --out"),
        ("coco", "x", "x: COCO labels are one file: give --out NAME.json"),
        ("labelme", "taken.json", "taken.json: is a file, but labelme needs a folder"),
        ("coco", "taken.json", "taken.json: exists already: choose another --out, or give --overw"),
        ("labelme", "images", "images: exists already"),
    ],
)
def test_existing_files_are_not_replaced(
    to: str, out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = write_folder(tmp_path, lambda c, p: write_png(c, p))
    (tmp_path / "taken.json").write_text("")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert run(images, labels, to, tmp_path / out) == 2
    assert message in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_overwrite_replaces_the_file(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path, lambda c, p: write_png(c, p))
    (tmp_path / "taken.json").write_text("")
    assert run(images, labels, "coco", tmp_path / "taken.json", "--overwrite") == 0
    assert len(read_labelled_folder(images, tmp_path / "taken.json", FORM).names) == 3
