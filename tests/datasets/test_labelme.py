"""Files of labelme next to other files."""

from pathlib import Path
from typing import Any

import pytest
from tests.support_labels import COUNT, ids, photograph, write_folder, write_labelme

from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError


def read_masks(folders: tuple[Path, Path], **options: Any) -> LabelledFolder:
    return read_labelled_folder(*folders, LabelFormat("segmentation"), **options)


def test_another_json_file_among_files_of_labelme_is_named(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    for number in range(COUNT):
        write_labelme(folders[1], number)
    (folders[1] / "a_classes.json").write_text('["grass", "house"]')
    with pytest.raises(InputError, match=r"a_classes\.json: not a labelme file .*: remove it"):
        read_masks(folders)


def test_files_of_labelme_next_to_their_photographs_are_read(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    for number in range(COUNT):
        write_labelme(folders[1], number)
        photograph(number).save(folders[1] / f"p{number}.png")
    folder = read_masks(folders)
    assert folder.names == ("background", "grass", "house")
    for number in range(COUNT):
        digest = content_hash(folders[0] / f"p{number}.jpg")
        (sample,) = (sample for sample in folder if sample.id == digest)
        assert (sample.labels["semantic"].numpy() == ids(number)).all()
    assert any("the labels are the labelme files; 3 other images" in n for n in folder.notes)
