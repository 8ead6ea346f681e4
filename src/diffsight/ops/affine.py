"""Affine views of an image (scaled and rotated crops), and the matrices of their pixels.

Positions are continuous, and the centre of the top-left pixel is (0, 0). The centres of the first
and the last pixel of a view lie on the edges of its box (unbiased data processing, Huang et al.,
CVPR 2020).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Matrix = Float[Tensor, "2 3"]


def enlarge_box(edges: Float[Tensor, " 4"], hw: tuple[int, int], by: float) -> Float[Tensor, " 4"]:
    """Return a box with the same centre and the aspect ratio of a view, ``by`` times as large.

    Args:
        edges: left, top, right and bottom of the box in pixels of the image.
        hw: height and width of the view in pixels.
        by: factor of the sides, after the shorter one is enlarged to the aspect ratio.
    """
    edges = edges.double()
    centre, sides = (edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]
    aspect = (hw[1] - 1) / (hw[0] - 1)
    height = torch.maximum(sides[1], sides[0] / aspect) * by
    half = torch.stack([height * aspect, height]) / 2
    return torch.cat([centre - half, centre + half])


def view_matrix(edges: Float[Tensor, " 4"], hw: tuple[int, int], *, degrees: float = 0.0) -> Matrix:
    """Return the matrix from the image to the view of a box, in double precision.

    Args:
        edges: left, top, right and bottom of a box with the aspect ratio of the view, in pixels of
            the image.
        hw: height and width of the view in pixels.
        degrees: rotation of the image around the centre of the box, clockwise.
    """
    edges = edges.double()
    centre, sides = (edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]
    last = edges.new_tensor([hw[1] - 1, hw[0] - 1])
    turn = math.radians(degrees)
    cosine, sine = math.cos(turn), math.sin(turn)
    rotation = edges.new_tensor([[cosine, -sine], [sine, cosine]])
    linear = (last / sides)[:, None] * rotation
    return torch.cat([linear, (last / 2 - linear @ centre)[:, None]], dim=1)


def invert_matrix(matrix: Matrix) -> Matrix:
    """Return the inverse of a matrix, from the view to the image."""
    linear = torch.linalg.inv(matrix[:, :2])
    return torch.cat([linear, -linear @ matrix[:, 2:]], dim=1)


def move_points(points: Float[Tensor, "*b 2"], matrix: Matrix) -> Float[Tensor, "*b 2"]:
    """Return points (x, y) transformed by a matrix."""
    moved = points.double() @ matrix[:, :2].mT + matrix[:, 2]
    return moved.to(points.dtype)


def mirror_joints(
    joints: Float[Tensor, "*b j 3"], width: int, order: Sequence[int]
) -> Float[Tensor, "*b j 3"]:
    """Return the joints in the mirrored image.

    Args:
        joints: x and y in pixels, and a third number, which is kept.
        width: width of the image in pixels.
        order: index of the mirror image of each joint (``label_maps.compute_mirror_order``).
    """
    x, rest = width - 1 - joints[..., :1], joints[..., 1:]
    return torch.cat([x, rest], dim=-1)[..., list(order), :]


def warp_image(
    image: Float[Tensor, "3 _ _"], matrix: Matrix, hw: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """Return a view of an image, interpolated (bilinear); 0 outside the image.

    Args:
        image: image in [0, 1].
        matrix: matrix from the image to the view.
        hw: height and width of the view in pixels.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in hw)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    last = grid.new_tensor([max(image.shape[-1] - 1, 1), max(image.shape[-2] - 1, 1)])
    unit = 2 * move_points(grid, invert_matrix(matrix.cpu())) / last - 1
    grid = unit.to(image)[None]
    return functional.grid_sample(image[None], grid, padding_mode="zeros", align_corners=True)[0]
