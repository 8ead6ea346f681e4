"""Masks with and without a palette in one folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support_labels import HEIGHT, WIDTH, ids, write_folder, write_png, write_shuffled_palette

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError


def read_masks(folders: tuple[Path, Path], **options: Any) -> LabelledFolder:
    return read_labelled_folder(*folders, LabelFormat("segmentation"), **options)


@pytest.mark.parametrize("classes", [(), {0x000000: "sky", 0x00C800: "grass", 0xC80000: "house"}])
def test_a_mask_without_palette_among_different_palettes_is_refused(
    classes: dict[int, str] | tuple[()], tmp_path: Path
) -> None:
    folders = write_folder(tmp_path, write_shuffled_palette)
    write_png(np.zeros((HEIGHT, WIDTH), np.uint8), folders[1] / "p2")
    names = ClassList(classes, "colour") if classes else ()
    with pytest.raises(InputError, match=r"p2\.png: has no palette, but the classes are the colo"):
        read_masks(folders, classes=names)


def test_a_mask_without_palette_among_equal_palettes_has_their_ids(tmp_path: Path) -> None:
    def write(classes: np.ndarray, path: Path) -> None:
        write_shuffled_palette(classes, path.with_name("p0"))
        (path.parent / "p0.png").rename(f"{path}.png")

    folders = write_folder(tmp_path, write)
    write_png(ids(0), folders[1] / "p0")
    assert read_masks(folders).ids == (0, 1, 2)
