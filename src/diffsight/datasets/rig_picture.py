"""Draw the images of several cameras into one picture."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.ops.resize import resize_image
from diffsight.rig import Rig

MAX_WIDTH_PX = 400  # of one camera image in the picture
MAX_VIEWS_IN_ONE_ROW = 3
ANGLE_TOLERANCE = 1e-4  # radians, for rounding errors


def draw_views(images: UInt8[Tensor, "v 3 _ _"]) -> UInt8[Tensor, "3 h w"]:
    """Return v camera images side by side as one picture: up to three in one row, more in two rows.

    Args:
        images: RGB images of one size; they are scaled down to at most ``MAX_WIDTH_PX`` in width.
    """
    count, _, height, width = images.shape
    scale = min(1.0, MAX_WIDTH_PX / width)
    hw = max(1, round(height * scale)), max(1, round(width * scale))
    # one image at a time: six images of nuScenes take 100 MB as floats
    views = [resize_image(one[None].float(), hw)[0].round().clamp(0, 255).byte() for one in images]
    rows = 1 if count <= MAX_VIEWS_IN_ONE_ROW else 2
    columns = -(-count // rows)
    lines = [torch.cat(views[i * columns : (i + 1) * columns], dim=2) for i in range(rows)]
    missing = lines[0].shape[2] - lines[-1].shape[2]
    lines[-1] = functional.pad(lines[-1], (0, missing))
    return torch.cat(lines, dim=1)


def draw_rig(rig: Rig) -> UInt8[Tensor, "3 h w"]:
    """Return the camera images of a rig side by side, ordered by their viewing directions.

    The first camera defines the front. The upper row has the cameras that look to the front, from
    left to right. The lower row has those that look to the back, from left around the back to
    right.

    Args:
        rig: a batch of one row.
    """
    (images,), (poses,) = rig.in_bytes().images, rig.camera_to_vehicle
    directions = torch.atan2(poses[:, 1, 2], poses[:, 0, 2])
    left = (directions - directions[0] + torch.pi).remainder(2 * torch.pi) - torch.pi
    is_behind = left.abs() > torch.pi / 2 + ANGLE_TOLERANCE
    around = left.remainder(2 * torch.pi)
    order = sorted(
        range(len(images)),
        key=lambda i: (bool(is_behind[i]), float(around[i] if is_behind[i] else -left[i])),
    )
    return draw_views(images[order])
