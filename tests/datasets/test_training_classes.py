"""Class masks of validation images are read with the classes and rules of the training set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_labels import write_folder, write_png, write_smoothed

from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError

FORM = LabelFormat("segmentation")


def write_values(root: Path, *values: int) -> tuple[Path, Path]:
    """Write images, and masks in which class n has the value ``values[n]``."""
    table = np.array(values, np.uint8)
    return write_folder(root, lambda c, p: write_png(table[c.clip(max=len(values) - 1)], p))


def training_set(root: Path, *values: int, **options: object) -> LabelledFolder:
    return read_labelled_folder(*write_values(root, *values), FORM, **options)


def test_white_in_masks_of_two_values_is_a_class_that_the_training_set_lacks(
    tmp_path: Path,
) -> None:
    """The masks 0 and 255 do not become masks with the class 0 alone."""
    first = training_set(tmp_path / "a", 0, 1)
    folders = write_values(tmp_path / "b", 0, 255)
    with pytest.raises(
        InputError,
        match=r"contains the class 255, which is not in the training set \(its classes: 0, 1\): "
        ".*, or mark it as unlabelled with --invalid 255",
    ):
        read_labelled_folder(*folders, FORM, like=first)
    folder = read_labelled_folder(*folders, LabelFormat("segmentation", invalid=255), like=first)
    assert folder[0].labels["semantic"].max() == 0


def test_255_among_class_ids_is_no_label_with_a_note(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 1)
    folder = read_labelled_folder(*write_values(tmp_path / "b", 0, 1, 255), FORM, like=first)
    assert all(not bool(sample.valid["semantic"].all()) for sample in folder)
    (note,) = folder.notes
    assert note.startswith("255 (2520 pixels, 15.6 %) is taken for 'no label', as in most data")


def test_255_and_one_class_are_read_as_in_the_training_set(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 1, 255)
    assert first.form.invalid == 255
    folder = read_labelled_folder(*write_values(tmp_path / "b", 0, 255), FORM, like=first)
    assert folder.notes == ("255 (9540 pixels, 58.9 %) is 'no label', as in the training set",)


def test_another_value_for_no_label_is_that_of_the_training_set(tmp_path: Path) -> None:
    form = LabelFormat("segmentation", invalid=0)
    first = read_labelled_folder(*write_values(tmp_path / "a", 0, 1, 2), form)
    folder = read_labelled_folder(*write_values(tmp_path / "b", 0, 1, 2), FORM, like=first)
    assert [sample.valid["semantic"].sum() for sample in folder] == [
        sample.valid["semantic"].sum() for sample in first
    ]
    assert any(
        "0 (" in note and "'no label', as in the training set" in note for note in folder.notes
    )


def test_smoothed_masks_are_refused_or_snapped_to_the_training_classes(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 100, 200)
    table = np.array([0, 100, 200], np.uint8)
    folders = write_folder(tmp_path / "b", lambda c, p: write_smoothed(table[c], p))
    with pytest.raises(InputError, match="smoothed or compressed masks"):
        read_labelled_folder(*folders, FORM, like=first)
    snapped = LabelFormat("segmentation", snap=True)
    folder = read_labelled_folder(*folders, snapped, like=first)
    for sample, exact in zip(folder, first, strict=True):
        differs = sample.labels["semantic"] != exact.labels["semantic"]
        assert float(differs.float().mean()) < 0.05
    assert any("snapped to the nearest of 0, 100, 200" in note for note in folder.notes)


def test_compressed_white_is_not_snapped_to_another_class(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 128)
    white = np.array([0, 255, 255], np.uint8)
    folders = write_folder(
        tmp_path / "b", lambda c, p: Image.fromarray(white[c]).save(f"{p}.jpg", quality=90)
    )
    with pytest.raises(InputError, match="contains the class 255, which is not in the training"):
        read_labelled_folder(*folders, LabelFormat("segmentation", snap=True), like=first)


def test_masks_with_other_ids_are_matched_by_the_names_of_a_list(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 1, classes=("ground", "crack"))
    folders = write_values(tmp_path / "b", 0, 255)
    folder = read_labelled_folder(*folders, FORM, classes=("ground", "crack"), like=first)
    for sample, exact in zip(folder, first, strict=True):
        assert (sample.labels["semantic"] == exact.labels["semantic"]).all()
    assert any("255" in note and "is a class, because" in note for note in folder.notes)
    with pytest.raises(InputError, match="contains the class 'hole', which is not in the training"):
        read_labelled_folder(*folders, FORM, classes=("ground", "hole"), like=first)


def test_coloured_masks_are_matched_by_the_names_of_a_list(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 1, classes=("ground", "crack"))
    colours = np.array([(9, 9, 9), (255, 255, 255), (255, 255, 255)], np.uint8)
    folders = write_folder(tmp_path / "b", lambda c, p: write_png(colours[c], p))
    with pytest.raises(InputError, match=r"contains colours, but the classes .* are ids: save it"):
        read_labelled_folder(*folders, FORM, like=first)
    folder = read_labelled_folder(*folders, FORM, classes=("ground", "crack"), like=first)
    for sample, exact in zip(folder, first, strict=True):
        assert (sample.labels["semantic"] == exact.labels["semantic"]).all()


def test_a_mask_without_palette_is_refused_if_the_training_classes_are_colours(
    tmp_path: Path,
) -> None:
    colours = np.array([(0, 0, 0), (0, 200, 0), (200, 0, 0)], np.uint8)
    first = read_labelled_folder(
        *write_folder(tmp_path / "a", lambda c, p: write_png(colours[c], p)), FORM
    )
    folders = write_folder(tmp_path / "b", lambda c, p: write_png(np.zeros_like(c), p))
    with pytest.raises(InputError, match=r"p\d\.png: contains ids without a palette, but the "):
        read_labelled_folder(*folders, FORM, like=first)


def test_white_of_one_bit_is_the_white_of_the_training_set(tmp_path: Path) -> None:
    first = training_set(tmp_path / "a", 0, 255)
    folders = write_folder(tmp_path / "b", lambda c, p: write_png(c > 0, p))
    folder = read_labelled_folder(*folders, FORM, like=first)
    for sample, exact in zip(folder, first, strict=True):
        assert (sample.labels["semantic"] == exact.labels["semantic"]).all()
