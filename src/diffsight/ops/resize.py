"""Resizing of images, maps and labels."""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional


def working_hw(
    height: int, width: int, short_side: int, long_side: int | None = None
) -> tuple[int, int]:
    """Return height and width of an image after resizing to a shorter side, in pixels.

    The aspect ratio stays nearly the same.

    Args:
        height: height of the image.
        width: width of the image.
        short_side: length of the shorter side of the result.
        long_side: largest longer side of the result; it may reduce the shorter side.
    """
    scale = short_side / min(height, width)
    if long_side is not None:
        scale = min(scale, long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def nearest_pixels(old: int, new: int) -> Int[Tensor, " new"]:
    """Return the index of the nearest of ``old`` pixels, for each of ``new`` pixels."""
    return ((torch.arange(new) * 2 + 1) * old) // (2 * new)


def resize_image(image: Float[Tensor, "b c _ _"], hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Return images at another size (bilinear, anti-aliased when they become smaller)."""
    if tuple(image.shape[-2:]) == hw:
        return image
    return resize_antialiased(image, hw, "bilinear")


def resize_antialiased(
    image: Float[Tensor, "b c _ _"], hw: tuple[int, int], mode: Literal["bilinear", "bicubic"]
) -> Float[Tensor, "b c h w"]:
    """Return images at another size, anti-aliased when they become smaller.

    Other runtimes lack such a resize, so in an exported graph it is two matrix products.

    Args:
        image: images.
        hw: height and width of the result.
        mode: interpolation between the pixels.
    """
    if not torch.compiler.is_exporting():
        return functional.interpolate(image, hw, mode=mode, antialias=True, align_corners=False)
    rows, columns = (
        _resize_weights(old, new, mode).to(image)
        for old, new in zip(image.shape[-2:], hw, strict=True)
    )
    return rows @ image @ columns.mT


def _resize_weights(old: int, new: int, mode: str) -> Float[Tensor, "{new} {old}"]:
    """Return the weight of every old pixel in every new one, along one side (as PyTorch's)."""
    scale = old / new
    centre = (torch.arange(new) + 0.5)[:, None] * scale
    distance = (torch.arange(old) + 0.5 - centre).abs() / max(scale, 1.0)
    weights = (1 - distance).clamp(min=0)
    if mode == "bicubic":  # Keys' kernel with a = -0.5
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)


def resize_label(label: Shaped[Tensor, "d _ _"], hw: tuple[int, int]) -> Shaped[Tensor, "d h w"]:
    """Return a label at another size: each pixel takes the nearest one, so no labels are mixed."""
    sizes = zip(label.shape[-2:], hw, strict=True)
    rows, columns = (nearest_pixels(old, new) for old, new in sizes)
    return label[:, rows][..., columns]


def resize_label_and_mask(
    label: Shaped[Tensor, "*d _ _"], valid: Bool[Tensor, "_ _"], hw: tuple[int, int]
) -> tuple[Shaped[Tensor, "*d h w"], Bool[Tensor, "h w"]]:
    """Return a label and its mask at another size, without losing sparse labels.

    A pixel of the new size takes the nearest label, as in ``resize_label``. If that pixel has no
    label, it takes the label nearest to its centre among those inside its area. This keeps thin
    strokes and single points when the image becomes smaller.

    Args:
        label: numbers or class ids.
        valid: pixels with a label.
        hw: height and width of the result.

    Returns:
        The labels, and the mask of the pixels that have one.
    """
    height, width = valid.shape
    rows, columns = nearest_pixels(height, hw[0]), nearest_pixels(width, hw[1])
    source = (rows[:, None] * width + columns).to(valid.device)
    is_labelled = valid.flatten()[source]
    if not is_labelled.all():
        cells, pixels = _fill_gaps(valid.cpu(), is_labelled.cpu())
        source.view(-1)[cells.to(valid.device)] = pixels.to(valid.device)
        is_labelled = valid.flatten()[source]
    return label.flatten(-2)[..., source], is_labelled


def _fill_gaps(
    valid: Bool[Tensor, "_ _"], is_labelled: Bool[Tensor, "h w"]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return unlabelled pixels of the new size, and the labelled old pixel that each takes.

    Args:
        valid: labelled pixels of the old size.
        is_labelled: pixels of the new size whose nearest old pixel is labelled.

    Returns:
        Flat indices of pixels of the new size, and of pixels of the old size.
    """
    (height, width), (h, w) = valid.shape, is_labelled.shape
    row_of, column_of = nearest_pixels(h, height), nearest_pixels(w, width)  # new pixel of each old
    y, x = (valid & ~is_labelled[row_of][:, column_of]).nonzero(as_tuple=True)
    row, column = row_of[y], column_of[x]
    dy = (y.double() + 0.5) - (row.double() + 0.5) * height / h
    dx = (x.double() + 0.5) - (column.double() + 0.5) * width / w
    order = (dy.square() + dx.square()).argsort(stable=True)
    cell = (row * w + column)[order]
    order = order[cell.argsort(stable=True)]
    cells = (row * w + column)[order]
    is_first = torch.ones_like(cells, dtype=torch.bool)
    is_first[1:] = cells[1:] != cells[:-1]
    return cells[is_first], (y * width + x)[order][is_first]


def resize_maps(maps: Float[Tensor, "b c _ _"], hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Return maps at another size (bilinear), without the anti-aliasing of ``resize_image``."""
    return functional.interpolate(maps, hw, mode="bilinear", align_corners=False)


@cache
def interpolation_weights(old: int, new: int) -> Float[Tensor, "old new"]:
    """Return the weights of linear interpolation from ``old`` to ``new`` samples."""
    return functional.interpolate(torch.eye(old)[None], new, mode="linear")[0]
