"""One picture of what several cameras see."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.ops.resize import resized_image
from diffsight.rig import Rig

MAX_WIDTH_PX = 400  # of one view
ONE_ROW = 3  # views
ROUNDING = 1e-4  # radians


def contact_sheet(images: UInt8[Tensor, "v 3 _ _"]) -> UInt8[Tensor, "3 h w"]:
    """Return the views of several cameras side by side: up to three in one row, more in two.

    Args:
        images: RGB; wider ones are reduced to ``MAX_WIDTH_PX``.
    """
    count, _, height, width = images.shape
    scale = min(1.0, MAX_WIDTH_PX / width)
    hw = max(1, round(height * scale)), max(1, round(width * scale))
    # one at a time: six views of nuScenes are 100 MB as floats
    views = [resized_image(one[None].float(), hw)[0].round().clamp(0, 255).byte() for one in images]
    rows = 1 if count <= ONE_ROW else 2
    columns = -(-count // rows)
    lines = [torch.cat(views[i * columns : (i + 1) * columns], dim=2) for i in range(rows)]
    missing = lines[0].shape[2] - lines[-1].shape[2]
    lines[-1] = functional.pad(lines[-1], (0, missing))
    return torch.cat(lines, dim=1)


def sheet_of(rig: Rig) -> UInt8[Tensor, "3 h w"]:
    """Return the cameras of a rig of one row side by side, as one sees them from the vehicle.

    The first camera looks to the front. The upper row has what is in front from left to right, the
    lower one what is behind, from the left around the back to the right.
    """
    (images,), (poses,) = rig.in_bytes().images, rig.camera_to_vehicle
    directions = torch.atan2(poses[:, 1, 2], poses[:, 0, 2])
    left = (directions - directions[0] + torch.pi).remainder(2 * torch.pi) - torch.pi
    is_behind = left.abs() > torch.pi / 2 + ROUNDING
    around = left.remainder(2 * torch.pi)
    order = sorted(
        range(len(images)),
        key=lambda i: (bool(is_behind[i]), float(around[i] if is_behind[i] else -left[i])),
    )
    return contact_sheet(images[order])
