"""Resizing of labels: strokes and single points of partly labelled images are kept."""

from typing import Any

import pytest
import torch
from tests.support import images

from diffsight.ops.resize import resize_antialiased, resize_label, resize_label_and_mask

SIZES = [((60, 90), (16, 24)), ((64, 64), (20, 30)), ((37, 53), (11, 16)), ((20, 31), (64, 99))]


def make_label(hw: tuple[int, int], fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 1000, (3, *hw), generator=generator)
    return label, torch.rand(hw, generator=generator) < fraction


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_complete_labels_are_resized_to_the_nearest_pixel(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    label, valid = make_label(old, 2.0)
    resized, mask = resize_label_and_mask(label, valid, new)
    assert mask.all()
    assert torch.equal(resized, resize_label(label, new))
    one, _ = resize_label_and_mask(label[0], valid, new)
    assert torch.equal(one, resized[0])


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.5])
def test_a_resized_pixel_has_the_label_of_a_labelled_pixel_in_its_area(
    old: tuple[int, int], new: tuple[int, int], fraction: float
) -> None:
    label, valid = make_label(old, fraction)
    label[0] = torch.arange(old[0] * old[1]).view(old)  # every pixel has a different number
    resized, mask = resize_label_and_mask(label, valid, new)
    nearest, nearest_mask = (resize_label(x, new) for x in (label, valid[None]))
    assert torch.equal(resized[:, nearest_mask[0]], nearest[:, nearest_mask[0]])
    row_of, column_of = (
        torch.tensor([(2 * i + 1) * n // (2 * o) for i in range(o)])
        for o, n in zip(old, new, strict=True)
    )
    has_label = torch.zeros(new, dtype=torch.bool)
    for y, x in valid.nonzero().tolist():
        has_label[row_of[y], column_of[x]] = True
    assert torch.equal(mask, has_label | nearest_mask[0])
    assert valid.flatten()[resized[0][mask]].all()
    y, x = resized[0] // old[1], resized[0] % old[1]
    is_filled = mask & ~nearest_mask[0]
    grid = torch.meshgrid(torch.arange(new[0]), torch.arange(new[1]), indexing="ij")
    assert torch.equal(row_of[y][is_filled], grid[0][is_filled])
    assert torch.equal(column_of[x][is_filled], grid[1][is_filled])


def test_strokes_and_points_survive_when_a_large_label_is_resized() -> None:
    label = torch.zeros(1500, 2000, dtype=torch.long)
    label[700:702, 100:1900], label[50:1400, 901] = 1, 2
    label[3, 5] = 3
    resized, valid = resize_label_and_mask(label, label > 0, (192, 256))
    assert resized[valid].unique().tolist() == [1, 2, 3]
    assert int((resized[valid] == 1).sum()) >= 225
    assert int((resized[valid] == 2).sum()) >= 170
    assert int((resized[valid] == 3).sum()) == 1
    # nearest-neighbour resizing would lose many of them
    assert int(resize_label((label > 0)[None], (192, 256)).sum()) < 0.6 * int(valid.sum())


def test_the_labelled_pixel_nearest_to_the_centre_is_taken() -> None:
    label = torch.arange(64).view(8, 8)
    valid = torch.zeros(8, 8, dtype=torch.bool)
    valid[0, 0] = valid[1, 2] = valid[7, 7] = True
    resized, mask = resize_label_and_mask(label, valid, (2, 2))
    assert mask.tolist() == [[True, False], [False, True]]
    assert [int(resized[0, 0]), int(resized[1, 1])] == [1 * 8 + 2, 63]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("old", "new"), [((50, 70), (20, 33)), ((20, 30), (40, 31))])
def test_the_matrices_of_a_graph_resize_as_torch(
    monkeypatch: pytest.MonkeyPatch, mode: Any, old: tuple[int, int], new: tuple[int, int]
) -> None:
    image = images(2, *old)
    expected = resize_antialiased(image, new, mode)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(resize_antialiased(image, new, mode), expected)
