"""Images and labels at the size at which a method works."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional


def working_hw(
    height: int, width: int, short_side: int, long_side: int | None = None
) -> tuple[int, int]:
    """The size with this shorter side and nearly the same shape, in pixels.

    Args:
        height: of the image.
        width: of the image.
        short_side: what it shall have.
        long_side: most that the longer side may have; the shorter one becomes smaller for it.
    """
    scale = short_side / min(height, width)
    if long_side is not None:
        scale = min(scale, long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def nearest(old: int, new: int) -> Int[Tensor, " new"]:
    """For each of ``new`` pixels the one of ``old`` whose area holds its centre."""
    return ((torch.arange(new) * 2 + 1) * old) // (2 * new)


def resized_image(image: Float[Tensor, "b c _ _"], hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Bilinear, anti-aliased where it becomes smaller."""
    if tuple(image.shape[-2:]) == hw:
        return image
    return functional.interpolate(image, hw, mode="bilinear", antialias=True, align_corners=False)


def resized_label(label: Shaped[Tensor, "d _ _"], hw: tuple[int, int]) -> Shaped[Tensor, "d h w"]:
    """The nearest pixel's: nothing is mixed across an edge or with what is not valid."""
    rows, columns = (nearest(old, new) for old, new in zip(label.shape[-2:], hw, strict=True))
    return label[:, rows][..., columns]
