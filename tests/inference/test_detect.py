"""Files with boxes of people: which image a box belongs to."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffsight.errors import InputError
from diffsight.inference.detect import BoxFile
from diffsight.inference.storage import Url

HW = (100, 100)


def write_boxes(path: Path, *image_ids: Any) -> BoxFile:
    """Write a file with one box for each image; the left edge is the number of the image."""
    rows = [
        {"image_id": one, "bbox": [number, 1, 9, 9], "score": 0.9}
        for number, one in enumerate(image_ids)
    ]
    path.write_text(json.dumps(rows))
    return BoxFile(path)


def left_edges(file: BoxFile, *images: Path) -> list[list[float]]:
    return [file.people(image, HW).edges[:, 0].tolist() for image in images]


def test_two_images_with_the_name_of_one_entry_are_refused(tmp_path: Path) -> None:
    images = [tmp_path / "trip" / folder / "0001.jpg" for folder in "ab"]
    for name in ("0001.jpg", "0001", 1):
        file = write_boxes(tmp_path / "boxes.json", name)
        message = (
            f"{file.path}: the boxes of {name} may be those of {images[0]} or {images[1]}: give "
            "paths relative to the folder of this file, or URLs, as image_id"
        )
        with pytest.raises(InputError) as caught:
            file.require(images)
        assert str(caught.value) == message
        file.require(images[1:])
    same = [tmp_path / "a.jpg", tmp_path / "a.png"]
    with pytest.raises(InputError, match="the boxes of a may be those of"):
        write_boxes(tmp_path / "boxes.json", "a").require(same)
    write_boxes(tmp_path / "boxes.json", "a.jpg", "a.png").require(same)


def test_paths_relative_to_the_file_tell_images_of_one_name_apart(tmp_path: Path) -> None:
    images = [tmp_path / "trip" / folder / "0001.jpg" for folder in "abc"]
    (tmp_path / "boxes").mkdir()
    names = ("../trip/b/0001.jpg", "../trip/a/0001", "0001.jpg")
    file = write_boxes(tmp_path / "boxes" / "boxes.json", *names)
    file.require(images)
    assert left_edges(file, *images) == [[1.0], [0.0], [2.0]]
    assert left_edges(file, tmp_path / "other.jpg") == [[]]


def test_whole_paths_and_urls_are_accepted(tmp_path: Path) -> None:
    local, remote = tmp_path / "a" / "x.jpg", Url("s3://bucket/b/x.jpg")
    file = write_boxes(tmp_path / "boxes.json", str(local), str(remote))
    images = [local, Path(remote)]
    file.require(images)
    assert left_edges(file, *images) == [[0.0], [1.0]]
