"""Masks of one colour are read in the form of the other masks of their folder."""

from pathlib import Path

import numpy as np
import pytest
from tests.support_labels import write_folder, write_png

from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError

FORM = LabelFormat("segmentation")
COLOURS = np.array([(0, 0, 0, 0), (0, 255, 0, 255), (255, 0, 0, 255)], np.uint8)


def write_transparent(classes: np.ndarray, path: Path) -> None:
    """Write a mask of colours on a transparent ground; that of ``p1`` has no object."""
    write_png(COLOURS[np.zeros_like(classes) if path.name == "p1" else classes], path)


def write_alpha(classes: np.ndarray, path: Path) -> None:
    """Write a white mask in which only class 2 is opaque; ``p1`` is opaque everywhere."""
    opacity = np.where((classes == 2) | (path.name == "p1"), 255, 0).astype(np.uint8)
    write_png(np.dstack([np.full_like(opacity, 255)] * 3 + [opacity]), path)


def test_a_transparent_mask_without_object_has_the_colours_of_the_other_masks(
    tmp_path: Path,
) -> None:
    folder = read_labelled_folder(*write_folder(tmp_path / "a", write_transparent), FORM)
    assert folder.ids == (0, 0x00FF00, 0xFF0000)
    assert sum(bool((sample.labels["semantic"] == 0).all()) for sample in folder) == 1
    empty = write_folder(
        tmp_path / "b", lambda c, p: write_png(COLOURS[np.zeros_like(c)], p), ("p0",)
    )
    (sample,) = read_labelled_folder(*empty, FORM, like=folder)
    assert not sample.labels["semantic"].any()


def test_an_opaque_mask_has_the_form_of_the_transparent_masks_of_its_folder(
    tmp_path: Path,
) -> None:
    folder = read_labelled_folder(*write_folder(tmp_path, write_alpha), FORM)
    assert folder.ids == (0, 255)
    assert sum(bool((sample.labels["semantic"] == 1).all()) for sample in folder) == 1


def test_a_mask_of_one_colour_with_a_shape_in_the_transparency_stays_refused(
    tmp_path: Path,
) -> None:
    def write(classes: np.ndarray, path: Path) -> None:
        (write_alpha if path.name == "p0" else write_transparent)(classes, path)

    with pytest.raises(InputError, match=r"contains (one channel of ids|colours), but .*same form"):
        read_labelled_folder(*write_folder(tmp_path, write), FORM)
