"""Whether 255 and 0 mean "no label" or a class in scribbles, and smoothed masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.support_labels import write_coco, write_folder, write_png

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError


def write_scribbles(
    root: Path,
    *,
    around: int,
    values: tuple[int, ...],
    width: int = 2,
    hw: tuple[int, int] = (300, 400),
) -> tuple[Path, Path]:
    """Write two images and masks with a stroke of each value; return the two folders."""
    images, labels = root / "images", root / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 255, (*hw, 3), np.uint8)
        Image.fromarray(noise).save(images / f"{number}.png")
        mask = Image.new("L", hw[::-1], around)
        for i, value in enumerate(values):
            y = (i + 1) * hw[0] // (len(values) + 1)
            corners = [(hw[1] // 10, y), (hw[1] // 2, y + 9 + number), (hw[1] * 9 // 10, y - 9)]
            ImageDraw.Draw(mask).line(corners, fill=value, width=width)
        mask.save(labels / f"{number}.png")
    return images, labels


def read(folders: tuple[Path, Path], invalid: int | None = None) -> LabelledFolder:
    return read_labelled_folder(*folders, LabelFormat("segmentation", invalid=invalid))


def labelled_fraction(folder: LabelledFolder) -> float:
    """Return the mean fraction of labelled pixels."""
    masks = [sample.valid["semantic"] for sample in folder]
    return sum(float(mask.float().mean()) for mask in masks) / len(masks)


@pytest.mark.parametrize(("values", "width"), [((0, 1, 2), 1), ((0, 1), 3), ((0, 100, 200), 2)])
def test_255_around_strokes_is_no_label(
    values: tuple[int, ...], width: int, tmp_path: Path
) -> None:
    folders = write_scribbles(tmp_path, around=255, values=values, width=width)
    folder = read(folders)
    assert folder.ids == values
    assert 0.001 < labelled_fraction(folder) < 0.03
    (note,) = [note for note in folder.notes if "255" in note]
    assert "is taken for 'no label', because it surrounds thin strokes: give --invalid -1" in note
    assert read(folders, -1).ids == (*values, 255)
    assert read(folders, 255).ids == values


def test_thick_strokes_in_a_large_photograph_are_still_scribbles(tmp_path: Path) -> None:
    folders = write_scribbles(tmp_path, around=255, values=(1, 2), width=20, hw=(1200, 1600))
    assert read(folders).ids == (1, 2)


def test_255_around_areas_is_a_class(tmp_path: Path) -> None:
    folders = write_scribbles(tmp_path, around=255, values=(1, 2), width=40)
    folder = read(folders)
    assert folder.ids == (1, 2, 255)
    assert any("255" in note and "more than half of the images" in note for note in folder.notes)


def test_0_around_strokes_is_a_class_with_a_note_about_invalid(tmp_path: Path) -> None:
    folders = write_scribbles(tmp_path, around=0, values=(1, 2))
    folder = read(folders)
    assert folder.ids == (0, 1, 2)
    (note,) = [note for note in folder.notes if "strokes" in note]
    assert "is a class, and surrounds thin strokes: give --invalid 0 if it is 'no label'" in note
    folder = read(folders, 0)
    assert folder.ids == (1, 2)
    assert labelled_fraction(folder) < 0.03
    assert not any("strokes" in note for note in folder.notes)
    areas = write_scribbles(tmp_path / "areas", around=0, values=(1, 2), width=40)
    assert not any("strokes" in note for note in read(areas).notes)


def test_thin_strokes_of_many_rare_classes_are_not_taken_for_smoothing(tmp_path: Path) -> None:
    folders = write_scribbles(tmp_path, around=255, values=(0, 1), width=3)
    path = folders[1] / "0.png"
    mask = np.array(Image.open(path))
    for value in range(2, 12):
        mask[3 * value, 10:14] = value
    Image.fromarray(mask).save(path)
    assert read(folders).ids == tuple(range(12))


def test_smoothed_strokes_are_refused(tmp_path: Path) -> None:
    folders = write_scribbles(tmp_path, around=255, values=(0, 100), width=24, hw=(1200, 1600))
    for folder in folders:
        for path in folder.iterdir():
            with Image.open(path) as image:
                image.resize((400, 300), Image.Resampling.BILINEAR).save(path)
    with pytest.raises(InputError, match="smoothed or compressed masks"):
        read(folders)


def test_255_is_a_class_only_if_the_list_of_classes_contains_it(tmp_path: Path) -> None:
    values = np.array([0, 1, 255], np.uint8)
    folders = write_folder(tmp_path, lambda c, p: write_png(values[c], p))
    form = LabelFormat("segmentation")
    named = ClassList({0: "sky", 1: "grass", 255: "house"}, "id")
    assert read_labelled_folder(*folders, form, classes=named).names == ("sky", "grass", "house")
    some = ClassList({0: "sky", 1: "grass"}, "id")
    folder = read_labelled_folder(*folders, form, classes=some)
    assert folder.names == ("sky", "grass")
    assert any(
        "255" in note and "list of classes does not contain it" in note for note in folder.notes
    )


def test_category_255_of_coco_is_a_class(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json")
    text = file.read_text().replace('"id": 8, "name"', '"id": 255, "name"')
    file.write_text(text.replace('"category_id": 8', '"category_id": 255'))
    folder = read_labelled_folder(images, file, LabelFormat("segmentation"))
    assert folder.ids == (0, 3, 255)
    assert all(bool(sample.valid["semantic"].all()) for sample in folder)


def write_black_and_white(classes: np.ndarray, path: Path) -> None:
    """Write a mask of one bit per pixel, those of ``p1`` and ``p2`` with 8 bits."""
    white = classes == 2
    write_png(white if path.name == "p0" else white.astype(np.uint8) * 255, path)


@pytest.mark.parametrize("invalid", [None, 255])
def test_white_has_one_value_in_masks_of_one_and_of_eight_bits(
    invalid: int | None, tmp_path: Path
) -> None:
    folders = write_folder(tmp_path, write_black_and_white)
    if invalid is None:
        folder = read(folders)
        assert folder.ids == (0, 255)
        assert all(int((sample.labels["semantic"] == 1).sum()) == 28 * 30 for sample in folder)
        assert any(
            "white is 255, also in 1 mask(s) of one bit per pixel" in n for n in folder.notes
        )
    else:
        with pytest.raises(InputError, match="all labelled pixels have the class 0"):
            read(folders, invalid)
    write_png(np.eye(60, 90, dtype=np.uint8), folders[1] / "p2")
    with pytest.raises(
        InputError, match=r"p0\.png: has one bit .*p2\.png contains 1 and .*p1\.png contains 255"
    ):
        read(folders, invalid)


def test_masks_of_one_bit_alone_have_the_ids_0_and_1(tmp_path: Path) -> None:
    assert read(write_folder(tmp_path, lambda c, p: write_png(c == 2, p))).ids == (0, 1)
