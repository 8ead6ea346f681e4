"""Scaled and turned parts of an image, and how points lie in them.

Positions are continuous, and the centre of the top-left pixel is (0, 0): the first and the last
pixel of a view lie on the edges of its box (unbiased data processing, Huang et al., CVPR 2020).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Matrix = Float[Tensor, "2 3"]


def enlarged(edges: Float[Tensor, " 4"], hw: tuple[int, int], by: float) -> Float[Tensor, " 4"]:
    """Return a box around the same centre with the aspect of a view, ``by`` times as large.

    Args:
        edges: left, top, right and bottom.
        hw: size of the view in pixels.
        by: factor of the sides, after the shorter one has been brought to the aspect.
    """
    edges = edges.double()
    centre, sides = (edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]
    aspect = (hw[1] - 1) / (hw[0] - 1)
    height = torch.maximum(sides[1], sides[0] / aspect) * by
    half = torch.stack([height * aspect, height]) / 2
    return torch.cat([centre - half, centre + half])


def view_of(edges: Float[Tensor, " 4"], hw: tuple[int, int], *, degrees: float = 0.0) -> Matrix:
    """Return the matrix from the image to a view of a box, in double precision.

    Args:
        edges: left, top, right and bottom of a box with the aspect of the view.
        hw: size of the view in pixels.
        degrees: by which the image is turned around the centre of the box, clockwise.
    """
    edges = edges.double()
    centre, sides = (edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]
    last = edges.new_tensor([hw[1] - 1, hw[0] - 1])
    turn = math.radians(degrees)
    cosine, sine = math.cos(turn), math.sin(turn)
    rotation = edges.new_tensor([[cosine, -sine], [sine, cosine]])
    linear = (last / sides)[:, None] * rotation
    return torch.cat([linear, (last / 2 - linear @ centre)[:, None]], dim=1)


def inverse(matrix: Matrix) -> Matrix:
    """Return the matrix from the view to the image."""
    linear = torch.linalg.inv(matrix[:, :2])
    return torch.cat([linear, -linear @ matrix[:, 2:]], dim=1)


def moved(points: Float[Tensor, "*b 2"], matrix: Matrix) -> Float[Tensor, "*b 2"]:
    """Return x and y of points on the other side of a matrix."""
    moved = points.double() @ matrix[:, :2].mT + matrix[:, 2]
    return moved.to(points.dtype)


def mirrored(
    joints: Float[Tensor, "*b j 3"], width: int, order: Sequence[int]
) -> Float[Tensor, "*b j 3"]:
    """Return joints of the mirrored image.

    Args:
        joints: x, y and anything.
        width: of the image in pixels.
        order: of each joint, the one that takes its place (``label_maps.mirrored_joints``).
    """
    x, rest = width - 1 - joints[..., :1], joints[..., 1:]
    return torch.cat([x, rest], dim=-1)[..., list(order), :]


def warped(
    image: Float[Tensor, "3 _ _"], matrix: Matrix, hw: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """Return a view of an image, interpolated (bilinear); 0 outside of the image.

    Args:
        image: in [0, 1].
        matrix: from the image to the view.
        hw: size of the view in pixels.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in hw)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    last = grid.new_tensor([max(image.shape[-1] - 1, 1), max(image.shape[-2] - 1, 1)])
    unit = 2 * moved(grid, inverse(matrix.cpu())) / last - 1
    grid = unit.to(image)[None]
    return functional.grid_sample(image[None], grid, padding_mode="zeros", align_corners=True)[0]
