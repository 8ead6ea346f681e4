"""A folder of labelled images in memory: classes, order and values of the labels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_datasets import write_coco_with_boxes, write_labelled_images
from tests.support_labels import (
    COUNT,
    ids,
    write_coco,
    write_folder,
    write_labelme,
    write_png,
)

from diffsight.datasets.base import Sample
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.tasks import ClassPrediction

FORM = LabelFormat("segmentation")


def make_colour_mask(*colours: tuple[int, int, int]) -> np.ndarray:
    """Return a mask of 20 x 30 pixels with a column of 10 pixels for each colour."""
    mask = np.zeros((20, 30, 3), np.uint8)
    for number, colour in enumerate(colours):
        mask[:, 10 * number : 10 * number + 10] = colour
    return mask


def write_named_labels(root: Path, form: str) -> tuple[Path, Path]:
    """Write images, and labels in a format with class names; return their paths."""
    images, labels = write_folder(root, None)
    if form == "coco":
        return images, write_coco(root / "instances.json")
    tasks = []
    for number in range(COUNT):
        if form == "labelme":
            write_labelme(labels, number)
            continue
        tasks.append({"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-p{number}.jpg"}})
        for value, name in ((1, "grass"), (2, "house")):
            mask = np.where(ids(number) == value, 255, 0).astype(np.uint8)
            write_png(mask, labels / f"task-{number}-annotation-4-by-1-tag-{name}-0")
    if tasks:
        (labels / "project.json").write_text(json.dumps(tasks))
    return images, labels


def test_dark_colours_are_colours_and_not_ids(tmp_path: Path) -> None:
    folders = write_labelled_images(
        tmp_path, [make_colour_mask((0, 0, 0), (0, 0, 255), (0, 200, 0))] * 2
    )
    folder = read_labelled_folder(*folders, FORM)
    assert folder.ids == (0, 255, 200 << 8)
    assert folder.names == ("#000000", "#0000ff", "#00c800")
    assert all(bool(sample.valid["semantic"].all()) for sample in folder)
    named = read_labelled_folder(*folders, FORM, classes=("ground", "water", "plant"))
    assert named.names == ("ground", "water", "plant")
    ids = torch.tensor([folder.ids])
    prediction = ClassPrediction(
        ids,
        torch.ones(1, 3),
        dict(zip(folder.ids, folder.names, strict=True)),
        dict(zip(folder.ids, folder.colours, strict=True)),
    )
    assert prediction.ids_are_colours


def test_names_belong_to_colours_in_ascending_order(tmp_path: Path) -> None:
    folders = write_labelled_images(
        tmp_path, [make_colour_mask((255, 0, 0), (0, 200, 0), (0, 0, 255))] * 2
    )
    folder = read_labelled_folder(*folders, FORM, classes=("sea", "grass", "roof"))
    assert folder.ids_are_colours
    assert folder.colours == ((0, 0, 255), (0, 200, 0), (255, 0, 0))
    with pytest.raises(InputError) as error:
        read_labelled_folder(*folders, FORM, classes=("sea", "grass"))
    assert "3 colours: #0000ff (400 px), #00c800 (400 px), #ff0000 (400 px): give one name" in str(
        error.value
    )


def test_two_classes_with_the_same_name_are_refused(tmp_path: Path) -> None:
    ids = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3
    folders = write_labelled_images(tmp_path, [ids])
    assert read_labelled_folder(*folders, FORM, classes=("wall", "floor", "door")).ids == (0, 1, 2)
    with pytest.raises(InputError, match="2 classes are named 'wall': use different names"):
        read_labelled_folder(*folders, FORM, classes=("wall", "floor", "wall"))


def test_white_in_black_and_white_masks_is_a_class_unless_marked_invalid(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 20:] = 255
    folders = write_labelled_images(tmp_path, [mask, mask])
    for form, classes in ((FORM, ()), (FORM, ("ground", "crack")), (replace(FORM, invalid=-1), ())):
        folder = read_labelled_folder(*folders, form, classes=classes)
        assert folder.ids == (0, 255)
        assert folder.names == (classes or ("class 0", "class 255"))
        assert all(bool(sample.valid["semantic"].all()) for sample in folder)
    for invalid in (255, 7):
        mask[:, 20:] = invalid
        for number in range(2):
            Image.fromarray(mask).save(folders[1] / f"{number}.png")
        with pytest.raises(
            InputError, match="have the class 0, but at least two classes are needed"
        ):
            read_labelled_folder(*folders, LabelFormat("segmentation", invalid=invalid))


def test_names_do_not_affect_the_order_of_copies_of_an_image(tmp_path: Path) -> None:
    labels = [np.full((20, 30), number, np.uint16) for number in range(1, 7)]
    orders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        images, masks = write_labelled_images(tmp_path / name, labels)
        for path in images.iterdir():
            Image.new("RGB", (30, 20)).save(path)
        folder = read_labelled_folder(images, masks, LabelFormat("scalar"))
        orders.append([float(sample.labels["values"].mean()) for sample in folder])
        labels.reverse()
    assert orders[0] == orders[1]


def test_mixed_ids_and_colours_in_one_folder_are_refused(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 1
    folders = write_labelled_images(
        tmp_path, [ids, make_colour_mask((0, 0, 0), (255, 255, 255)), ids]
    )
    with pytest.raises(InputError, match=r"contains (colours|one channel of ids), but .*same form"):
        read_labelled_folder(*folders, FORM)


def test_depth_maps_are_refused_as_class_masks(tmp_path: Path) -> None:
    counts = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    folders = write_labelled_images(tmp_path, [counts, counts])
    with pytest.raises(InputError, match=r"labels: 1999 different values are too many"):
        read_labelled_folder(*folders, FORM)


def test_sampled_values_come_from_all_columns_and_are_the_same_every_time() -> None:
    positions = torch.arange(480.0 * 640).reshape(1, 480, 640)
    sample = Sample(
        "id",
        torch.zeros(3, 480, 640, dtype=torch.uint8),
        {"values": positions},
        {"values": torch.ones(480, 640).bool()},
    )
    folder = LabelledFolder(LabelFormat("scalar"), (sample,) * 10)
    values = folder.values()
    assert len(values) == 200_000
    assert len((values % 640).unique()) == 640
    assert len(values.unique()) > 100_000  # different pixels in every image
    assert torch.equal(values, folder.values())


def test_classes_are_numbered_from_zero_and_unlabelled_pixels_are_zero(tmp_path: Path) -> None:
    ids = np.full((20, 30), 7, np.uint8)
    ids[:, 10:20] = 9
    ids[:, 20:] = 255
    folder = read_labelled_folder(*write_labelled_images(tmp_path, [ids]), FORM)
    (sample,) = folder
    label = sample.labels["semantic"]
    assert label.dtype == torch.int64
    assert label[0, ::10].tolist() == [0, 1, 0]
    assert sample.valid["semantic"][0, ::10].tolist() == [True, True, False]
    assert folder.class_names == {"semantic": ("class 7", "class 9")}


def test_validation_labels_get_the_class_numbers_of_the_training_set(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 5
    for name in "ab":
        (tmp_path / name).mkdir()
    first = read_labelled_folder(
        *write_labelled_images(tmp_path / "a", [ids]), FORM, classes=tuple("abcdef")
    )
    ids[:, 20:] = 3
    folders = write_labelled_images(tmp_path / "b", [ids])
    more = read_labelled_folder(*folders, FORM, like=first)
    assert more.names == first.names
    assert more[0].labels["semantic"][0, ::10].tolist() == [0, 5, 3]
    with pytest.raises(InputError, match=r"contains the class 3, which is not in the training set"):
        read_labelled_folder(
            *folders, FORM, like=LabelledFolder(FORM, first.samples, ids=(0, 5), names=("a", "f"))
        )


RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
Rgb = tuple[int, int, int]


def read_palette_masks(
    root: Path, colours: list[Rgb], shown: tuple[Rgb, ...], **options: Any
) -> LabelledFolder:
    """Write an image whose mask has columns of the colours ``shown``, and read it.

    The palette of the mask has the colours in the given order.
    """
    root.mkdir()
    folders = write_labelled_images(root, [np.zeros((20, 30), np.uint8)])
    indices = np.repeat([colours.index(colour) for colour in shown], 30 // len(shown))
    mask = Image.fromarray(np.tile(indices.astype(np.uint8), (20, 1)), mode="P")
    mask.putpalette([value for colour in colours for value in colour])
    mask.save(folders[1] / "0.png")
    return read_labelled_folder(*folders, FORM, **options)


def columns(folder: LabelledFolder) -> list[int]:
    """Return the classes of the three columns of the only image."""
    return folder[0].labels["semantic"][0, 5::10].tolist()


def test_classes_of_palettes_in_another_order_are_matched_by_colour(tmp_path: Path) -> None:
    shown = (BLACK, RED, GREEN)
    first = read_palette_masks(tmp_path / "a", [BLACK, RED, GREEN], shown)
    assert first.ids == (0, 1, 2)
    for name, order in (("b", [BLACK, RED, GREEN]), ("c", [BLUE, GREEN, BLACK, RED])):
        more = read_palette_masks(tmp_path / name, order, shown, like=first)
        assert columns(more) == [0, 1, 2]
    saved = LabelledFolder(FORM, (), ids=first.ids, names=first.names, colours=first.colours)
    more = read_palette_masks(tmp_path / "d", [GREEN, RED, BLACK], shown, like=saved)
    assert columns(more) == [0, 1, 2]
    with pytest.raises(
        InputError, match=r"id 1 is #00ff00, but in the training set it is #ff0000: save the files"
    ):
        read_palette_masks(tmp_path / "e", [BLACK, GREEN, BLUE], (BLACK, GREEN, BLUE), like=first)


def test_palettes_with_other_colours_than_the_training_labels_are_matched_by_index(
    tmp_path: Path,
) -> None:
    grey = np.repeat(np.arange(3, dtype=np.uint8), 10)[None].repeat(20, axis=0)
    (tmp_path / "a").mkdir()
    first = read_labelled_folder(*write_labelled_images(tmp_path / "a", [grey]), FORM)
    assert first.colours[0] == BLACK
    more = read_palette_masks(tmp_path / "b", [RED, BLACK, GREEN], (RED, BLACK, GREEN), like=first)
    assert columns(more) == [0, 1, 2]
    first = read_palette_masks(tmp_path / "c", [BLACK, RED], (BLACK, RED))
    more = read_palette_masks(tmp_path / "d", [BLACK, BLUE], (BLUE, BLACK, BLUE), like=first)
    assert columns(more) == [1, 0, 1]


def test_dark_palette_colours_may_be_the_classes_of_the_training_set(tmp_path: Path) -> None:
    order, shown = [BLACK, GREEN, BLUE], (BLACK, GREEN, BLUE)
    named = ClassList({0: "ground", 0x00FF00: "plant", 0x0000FF: "water"}, "colour")
    first = read_palette_masks(tmp_path / "a", order, shown, classes=named)
    assert first.ids_are_colours
    more = read_palette_masks(tmp_path / "b", order, shown, like=first)
    assert columns(more) == columns(first)
    more = read_palette_masks(tmp_path / "c", [GREEN, BLUE, BLACK], shown, like=first)
    assert columns(more) == columns(first)
    other = (0, 9, 9)
    with pytest.raises(
        InputError, match=r"class #000909, which is .* classes: #000000, #0000ff, #00ff00\)"
    ):
        read_palette_masks(tmp_path / "d", [BLACK, other], (BLACK, other, BLACK), like=first)


@pytest.mark.parametrize("form", ["labelme", "coco", "label studio"])
def test_class_lists_are_matched_by_name_with_labels_that_name_their_classes(
    tmp_path: Path, form: str
) -> None:
    images, labels = write_named_labels(tmp_path, form)
    plain = read_labelled_folder(images, labels, FORM)
    assert plain.names == ("background", "grass", "house")
    for classes in (
        ("house", "background", "grass"),
        ClassList({9: "house", 2: "background", 5: "grass"}, "id"),
    ):
        folder = read_labelled_folder(images, labels, FORM, classes=classes)
        assert sorted(folder.names) == sorted(plain.names)
        for sample, other in zip(folder, plain, strict=True):
            assert sample.id == other.id
            names = np.array(folder.names)[sample.labels["semantic"].numpy()]
            assert (names == np.array(plain.names)[other.labels["semantic"].numpy()]).all()
    for classes, missing in (
        (("background", "house", "lawn"), "grass"),
        (("grass", "house"), "background"),
    ):
        with pytest.raises(
            InputError,
            match=rf"class '{missing}' is not in the list of classes \({', '.join(classes)}\): "
            "correct the name, or add it",
        ) as error:
            read_labelled_folder(images, labels, FORM, classes=classes)
        assert ".json: " in str(error.value) or form == "label studio"


def test_boxes_have_the_class_ids_of_the_list(tmp_path: Path) -> None:
    images, file = write_coco_with_boxes(tmp_path)
    plain = read_labelled_folder(images, file, FORM)
    folder = read_labelled_folder(images, file, FORM, classes=("house", "background", "grass"))
    for sample, other in zip(folder, plain, strict=True):
        assert sample.boxes is not None
        assert other.boxes is not None
        assert folder.names[sample.boxes.background] == "background"
        names = [folder.names[number] for number in sample.boxes.class_ids.tolist()]
        assert names == [plain.names[number] for number in other.boxes.class_ids.tolist()]


def test_messages_name_the_file_with_the_labels_of_all_images(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    table = tmp_path / "points.csv"
    table.write_text("p0,1,2,7\np1,1,2,7\n")
    with pytest.raises(InputError) as error:
        read_labelled_folder(images, table, FORM)
    assert str(error.value).startswith(f"{table}: all labelled pixels have the class 7")
    table.write_text("p0,1,2,0\np1,1,2,7\n")
    with pytest.raises(InputError) as error:
        read_labelled_folder(images, table, FORM, classes=("wall", "floor"))
    assert str(error.value).startswith(f"{table}: 2 class names, but the labels contain class ids")
    table.write_text("".join(f"p0,{n % 90},{n // 90},{n}\n" for n in range(1030)))
    with pytest.raises(InputError) as error:
        read_labelled_folder(images, table, FORM)
    assert str(error.value).startswith(f"{table}: 1029 different values are too many")


def test_transparent_pixels_are_counted_in_the_notes(tmp_path: Path) -> None:
    grey = np.full((20, 30, 4), (9, 9, 9, 255), np.uint8)
    grey[:5, :, 3], grey[10:, :, :3] = 0, 90
    folder = read_labelled_folder(*write_labelled_images(tmp_path, [grey]), LabelFormat("scalar"))
    assert folder.notes == ("150 pixels (25.0 %) have no label: not finite or transparent",)
