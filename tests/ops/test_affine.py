"""Parts of images, and points in them."""

import pytest
import torch
from tests.support import noise

from diffsight.ops.affine import enlarged, inverse, moved, view_of, warped


def test_a_view_has_the_aspect_and_the_centre_of_its_box() -> None:
    box = torch.tensor([10.0, 20.0, 30.0, 100.0])
    assert enlarged(box, (65, 49), 1.0).tolist() == [-10.0, 20.0, 50.0, 100.0]
    assert enlarged(box, (65, 49), 1.5).tolist() == [-25.0, 0.0, 65.0, 120.0]
    wide = torch.tensor([0.0, 0.0, 48.0, 10.0])
    assert enlarged(wide, (65, 49), 1.0).tolist() == [0.0, -27.0, 48.0, 37.0]


def test_the_edges_of_a_box_are_the_outer_pixels_of_its_view() -> None:
    view = torch.tensor([3.0, -2.0, 18.0, 18.0])
    matrix = view_of(view, (41, 31))
    corners = torch.tensor([[3.0, -2.0], [18.0, 18.0], [10.5, 8.0]])
    expected = torch.tensor([[0.0, 0.0], [30.0, 40.0], [15.0, 20.0]])
    torch.testing.assert_close(moved(corners, matrix), expected)
    torch.testing.assert_close(moved(expected, inverse(matrix)), corners)


def test_a_quarter_turn_is_clockwise() -> None:
    matrix = view_of(torch.tensor([0.0, 0.0, 4.0, 4.0]), (5, 5), degrees=90.0)
    right = torch.tensor([[4.0, 2.0]])
    torch.testing.assert_close(moved(right, matrix), torch.tensor([[2.0, 4.0]]))


def test_the_view_of_a_whole_image_is_the_image() -> None:
    image = noise(3, 12, 9, seed=1).sigmoid()
    matrix = view_of(torch.tensor([0.0, 0.0, 8.0, 11.0]), (12, 9))
    torch.testing.assert_close(warped(image, matrix, (12, 9)), image, rtol=0, atol=1e-5)


def test_a_view_shows_what_lies_in_the_box_and_black_outside() -> None:
    image = torch.zeros(3, 20, 20)
    image[:, 5, 12] = 1.0
    matrix = view_of(torch.tensor([10.0, 3.0, 24.0, 17.0]), (15, 15))
    view = warped(image, matrix, (15, 15))
    assert float(view[0, 2, 2]) == pytest.approx(1.0, abs=1e-5)
    assert float(view[:, :, 11:].max()) == 0.0


@pytest.mark.parametrize("degrees", [0.0, 33.0, -120.0])
def test_points_move_as_pixels_do(degrees: float) -> None:
    image = torch.zeros(3, 60, 60)
    image[:, 25:28, 33:36] = 1.0
    matrix = view_of(torch.tensor([10.0, 8.0, 50.0, 48.0]), (80, 80), degrees=degrees)
    view = warped(image, matrix, (80, 80))[0]
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    centre = torch.stack([(view * columns).sum(), (view * rows).sum()]) / view.sum()
    expected = moved(torch.tensor([[34.0, 26.0]]), matrix)[0]
    torch.testing.assert_close(centre, expected, rtol=0, atol=0.1)
