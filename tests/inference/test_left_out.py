"""Finding photographs in folders that also have labels, other file types and links."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_labels import ids, photograph, write_png

from diffsight.errors import InputError
from diffsight.inference.write import find_images


def names(*arguments: Path) -> list[str]:
    return sorted(job.image.name for job in find_images([str(one) for one in arguments]))


def test_label_files_next_to_photographs_are_skipped_unless_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "labels").mkdir()
    for number in range(2):
        photograph(number).save(tmp_path / f"p{number}.jpg")
        write_png(ids(number), tmp_path / f"p{number}_mask")
        write_png(ids(number).astype(np.uint16) * 900, tmp_path / f"p{number}_depth")
        write_png(ids(number), tmp_path / "labels" / f"p{number}")
        photograph(number + 5).save(tmp_path / f"p{number}_edited.png")
        photograph(number + 5).save(tmp_path / f"p{number}.png")
    write_png(ids(0), tmp_path / "drawing")
    kept = ["drawing.png", "p0.jpg", "p0.png", "p0_edited.png", "p1.jpg", "p1.png", "p1_edited.png"]
    assert names(tmp_path) == kept
    assert "6 labels of a photograph (" in caplog.text
    assert names(tmp_path / "p0_mask.png", tmp_path / "p0.jpg") == ["p0.jpg", "p0_mask.png"]


def test_files_of_unreadable_types_are_skipped_and_logged_with_a_repair(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "b.cr2").write_bytes(b"raw")
    with pytest.raises(InputError, match=r"1 file of an unreadable type \(b\.cr2: convert it to"):
        find_images([str(tmp_path)])
    photograph(0).save(tmp_path / "a.jpg")
    assert names(tmp_path) == ["a.jpg"]
    assert "1 file of an unreadable type (b.cr2: convert it to JPEG or PNG) skipped" in caplog.text


def test_linked_folders_are_searched_without_endless_loops(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "b" / "x.png")
    (tmp_path / "a" / "more").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "back").symlink_to(tmp_path / "a")
    assert names(tmp_path / "a") == ["x.png"]
