"""Names of images are matched with names of labels, or with none."""

from pathlib import Path

import pytest
from tests.support_labels import photograph

from diffsight.datasets.find_labels import find_labels
from diffsight.datasets.pair_names import pair_names

FRAMES = [f"frame_{number}" for number in range(1, 41)]


def with_ending(ending: str, *names: str) -> dict[str, str]:
    """Return the names of labels by the names of images, as ``pair_names`` does."""
    return {name: name + ending for name in names}


@pytest.mark.parametrize(
    ("images", "pairs"),
    [
        (FRAMES, with_ending("_mask", "frame_10", "frame_20", "frame_30", "frame_40")),
        (FRAMES, with_ending("mask", "frame_10", "frame_20")),
        ([f"img{number}" for number in range(1, 13)], with_ending("_mask", "img12")),
        (["a/p1", "a/p10"], with_ending("_1", "a/p10")),
        (["p1", "p2"], with_ending("_1", "p1", "p2")),
        (["p1", "p1_left"], with_ending("_mask", "p1_left")),
        (["p1", "p2", "p1_m"], with_ending("_m_mask", "p1", "p2", "p1_m")),
    ],
)
def test_a_label_belongs_to_the_longest_name_of_an_image(
    images: list[str], pairs: dict[str, str]
) -> None:
    assert pair_names(images, list(pairs.values())) == pairs


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (FRAMES[:9], ["frame_10_mask", "frame_20_mask"]),
        (FRAMES[:10], ["frame_10_mask", "frame_20_mask", "frame_30_mask"]),
        (["day", "day_left", "night"], ["day_left_mask", "night_left_mask"]),
    ],
)
def test_labels_are_not_given_to_another_image_if_that_matches_more_of_them(
    images: list[str], labels: list[str]
) -> None:
    assert pair_names(images, labels) == {}


def test_numbered_copies_of_images_in_the_folder_of_the_masks_are_no_labels() -> None:
    names = [f"p{number}{copy}" for number in range(3) for copy in ("", "_1", "_2")]
    masks = ["p0_mask", "p1_mask", "p1_1_mask"]
    expected = with_ending("_mask", "p0", "p1", "p1_1")
    assert pair_names(names + masks, names + masks, is_one_folder=True) == expected
    assert pair_names(["p0", "p1", "p0_1"], ["p0_1"], is_one_folder=True) == {"p0": "p0_1"}


def test_the_ending_of_the_labels_is_in_the_notes(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for number in (1, 2, 12):
        photograph(number).save(images / f"img{number}.png")
    photograph(0).save(labels / "img12_mask.png")
    labelled = find_labels(images, labels, "vector", allow_unlabelled=True)
    assert labelled.pairs == [(images / "img12.png", "img12_mask")]
    assert (
        labelled.notes[0] == "the name of each label is the name of its image followed by '_mask'"
    )
