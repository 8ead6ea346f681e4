"""Views of images, and points in them."""

import pytest
import torch
from tests.support import noise

from diffsight.ops.affine import enlarge_box, invert_matrix, move_points, view_matrix, warp_image


def test_enlarging_a_box_gives_it_the_aspect_of_the_view_and_keeps_its_centre() -> None:
    box = torch.tensor([10.0, 20.0, 30.0, 100.0])
    assert enlarge_box(box, (65, 49), 1.0).tolist() == [-10.0, 20.0, 50.0, 100.0]
    assert enlarge_box(box, (65, 49), 1.5).tolist() == [-25.0, 0.0, 65.0, 120.0]
    wide = torch.tensor([0.0, 0.0, 48.0, 10.0])
    assert enlarge_box(wide, (65, 49), 1.0).tolist() == [0.0, -27.0, 48.0, 37.0]


def test_the_outer_pixels_of_a_view_lie_on_the_edges_of_its_box() -> None:
    box = torch.tensor([3.0, -2.0, 18.0, 18.0])
    matrix = view_matrix(box, (41, 31))
    corners = torch.tensor([[3.0, -2.0], [18.0, 18.0], [10.5, 8.0]])
    expected = torch.tensor([[0.0, 0.0], [30.0, 40.0], [15.0, 20.0]])
    torch.testing.assert_close(move_points(corners, matrix), expected)
    torch.testing.assert_close(move_points(expected, invert_matrix(matrix)), corners)


def test_degrees_rotate_clockwise() -> None:
    matrix = view_matrix(torch.tensor([0.0, 0.0, 4.0, 4.0]), (5, 5), degrees=90.0)
    right = torch.tensor([[4.0, 2.0]])
    torch.testing.assert_close(move_points(right, matrix), torch.tensor([[2.0, 4.0]]))


def test_the_view_of_a_whole_image_is_the_image() -> None:
    image = noise(3, 12, 9, seed=1).sigmoid()
    matrix = view_matrix(torch.tensor([0.0, 0.0, 8.0, 11.0]), (12, 9))
    torch.testing.assert_close(warp_image(image, matrix, (12, 9)), image, rtol=0, atol=1e-5)


def test_a_view_shows_the_box_and_is_black_outside_the_image() -> None:
    image = torch.zeros(3, 20, 20)
    image[:, 5, 12] = 1.0
    matrix = view_matrix(torch.tensor([10.0, 3.0, 24.0, 17.0]), (15, 15))
    view = warp_image(image, matrix, (15, 15))
    assert float(view[0, 2, 2]) == pytest.approx(1.0, abs=1e-5)
    assert float(view[:, :, 11:].max()) == 0.0


@pytest.mark.parametrize("degrees", [0.0, 33.0, -120.0])
def test_points_and_pixels_are_moved_by_the_same_matrix(degrees: float) -> None:
    image = torch.zeros(3, 60, 60)
    image[:, 25:28, 33:36] = 1.0
    matrix = view_matrix(torch.tensor([10.0, 8.0, 50.0, 48.0]), (80, 80), degrees=degrees)
    view = warp_image(image, matrix, (80, 80))[0]
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    centre = torch.stack([(view * columns).sum(), (view * rows).sum()]) / view.sum()
    expected = move_points(torch.tensor([[34.0, 26.0]]), matrix)[0]
    torch.testing.assert_close(centre, expected, rtol=0, atol=0.1)
