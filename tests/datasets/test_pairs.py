"""Pairs of image and depth files: reading, sizes, lists and missing files."""

from pathlib import Path

import pytest
import torch
from tests.support_images import write_depth, write_image

from diffsight.datasets.pairs import Pair, read_list, read_pair, require_files
from diffsight.errors import InputError


def test_a_pair_becomes_a_sample(tmp_path: Path) -> None:
    image, depth = write_image(tmp_path / "a.png"), write_depth(tmp_path / "d.png", 512)
    sample = read_pair(Pair("a", image, depth, "m/256", "kitchen"))
    assert (sample.id, sample.prompt, sample.camera) == ("a", "kitchen", None)
    assert sample.image.shape == (3, 20, 24)
    assert sample.labels["depth_m"].shape == (1, 20, 24)
    assert not sample.valid["depth_m"][0].any()
    assert (sample.labels["depth_m"][:, 1:] == 2).all()
    assert sample.labels["depth_m"].dtype == torch.float32


def test_depth_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    depth = write_depth(tmp_path / "d.png", size=(20, 24))
    with pytest.raises(
        InputError, match=r"20 x 24 pixels for an image .*24 x 20: give both"
    ) as error:
        read_pair(Pair("a", image, depth, "mm"))
    assert str(image) in str(error.value)
    assert str(depth) in str(error.value)
    assert "\n" not in str(error.value)


def test_list_files_are_read_or_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("/a/rgb /a/depth 518.8\n\nb/rgb b/depth\n")
    assert read_list(path, 2) == [("a/rgb", "a/depth"), ("b/rgb", "b/depth")]
    path.write_text("a b\nc\n")
    with pytest.raises(InputError, match=r"list.txt, line 2: 1 field\(s\) instead of 2; a line is"):
        read_list(path, 2)
    path.write_text("\n")
    with pytest.raises(InputError, match="the list is empty; give one line"):
        read_list(path, 2)
    with pytest.raises(InputError, match="cannot be read as a list"):
        read_list(tmp_path / "none.txt", 2)


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    pairs = [Pair("a", image, tmp_path / "d.png", "mm"), Pair("b", image, tmp_path / "e.png", "mm")]
    with pytest.raises(
        InputError, match=r"2 of 4 files are missing \(first: .*d\.png\); look again"
    ):
        require_files(pairs, "look again")
    require_files([Pair("a", image, image, "mm")], "")
