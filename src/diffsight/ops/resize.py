"""Images and labels at the size at which a method works."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
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


def resized_label_and_mask(
    label: Shaped[Tensor, "*d _ _"], valid: Bool[Tensor, "_ _"], hw: tuple[int, int]
) -> tuple[Shaped[Tensor, "*d h w"], Bool[Tensor, "h w"]]:
    """Return the nearest labels; where the nearest pixel has none, that of a labelled neighbour.

    A pixel of the new size takes the label that is nearest to its centre among those inside its
    area. So thin strokes and single points are kept when the image becomes smaller, and a label
    without gaps is the same as with ``resized_label``.

    Args:
        label: numbers or class ids.
        valid: where there is a label.
        hw: the new size.
    """
    height, width = valid.shape
    rows, columns = nearest(height, hw[0]), nearest(width, hw[1])
    source = (rows[:, None] * width + columns).to(valid.device)
    is_labelled = valid.flatten()[source]
    if not is_labelled.all():
        cells, pixels = _labelled_in_gaps(valid.cpu(), is_labelled.cpu())
        source.view(-1)[cells.to(valid.device)] = pixels.to(valid.device)
        is_labelled = valid.flatten()[source]
    return label.flatten(-2)[..., source], is_labelled


def _labelled_in_gaps(
    valid: Bool[Tensor, "_ _"], is_labelled: Bool[Tensor, "h w"]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return pixels of the new size without a label, and for each the labelled pixel to take."""
    (height, width), (h, w) = valid.shape, is_labelled.shape
    row_of, column_of = nearest(h, height), nearest(w, width)  # the new pixel of every old one
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


def interpolated(maps: Float[Tensor, "b c _ _"], hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Return maps at another size (bilinear), without the smoothing that ``resized_image`` adds."""
    return functional.interpolate(maps, hw, mode="bilinear", align_corners=False)
