"""Captions of a file as prompts."""

from pathlib import Path

import pytest
from tests.support_datasets import write_captions

from diffsight.datasets import Captioned
from diffsight.errors import InputError
from diffsight.rooms import ReferringRooms, Rooms


def test_the_prompt_of_each_sample_is_its_caption(tmp_path: Path) -> None:
    rooms = Rooms(count=2, size=16)
    rooms.map_cells = (50, 0.5)
    ids = [rooms[i].id for i in range(2)]
    path = write_captions(tmp_path / "c.json", {ids[0]: "a chair"})
    data = Captioned(dataset=rooms, captions=path)
    assert (len(data), data.name, data[0].prompt) == (2, "rooms-train", "a chair")
    assert (data.class_names, data.map_cells) == (rooms.class_names, (50, 0.5))
    assert (rooms.prompt_source, data.prompt_source) == ("oracle-scene", "caption")
    with pytest.raises(InputError, match=f"no caption for {ids[1]}"):
        data[1]


def test_the_caption_replaces_the_sentences_of_a_sample(tmp_path: Path) -> None:
    rooms = ReferringRooms(count=1, size=16)
    path = write_captions(tmp_path / "c.json", {rooms[0].id: "a room"}, "referring-rooms-train")
    (sample,) = Captioned(dataset=rooms, captions=path)[0].split_by_sentence()
    assert sample.prompt == "a room"


def test_captions_of_another_data_set_or_damaged_files_are_refused(tmp_path: Path) -> None:
    rooms = Rooms(count=1, size=16)
    other = write_captions(tmp_path / "c.json", {}, "nyu-train")
    with pytest.raises(InputError, match=r"c\.json: captions of data set 'nyu-train', not of 'roo"):
        Captioned(dataset=rooms, captions=other)
    (tmp_path / "d.json").write_text("[]")
    for name in ("d.json", "none.json"):
        with pytest.raises(InputError, match=f"{name}: no captions"):
            Captioned(dataset=rooms, captions=tmp_path / name)
