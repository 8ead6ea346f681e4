"""Padding on the right and at the bottom, for networks that need multiples of a stride."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.errors import InputError

MID_GREY = 0.5  # becomes 0 after scaling to [-1, 1]; VPD's authors pad with 0


def pad_to_multiple(
    image: Float[Tensor, "b c h w"], multiple: int, value: float
) -> Float[Tensor, "b c ph pw"]:
    """Return images padded on the right and at the bottom, to multiples of a number of pixels.

    Args:
        image: images.
        multiple: both sides of the result are multiples of this.
        value: value of the added pixels.
    """
    height, width = image.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if right == 0 and bottom == 0:
        return image
    return functional.pad(image, (0, right, 0, bottom), value=value)


def require_multiples(height: int, width: int, multiple: int) -> None:
    """Refuse an image whose sides are not multiples of ``multiple`` pixels.

    Raises:
        InputError: if a side is not such a multiple.
    """
    if height % multiple or width % multiple:
        raise InputError(
            f"image of {width} x {height} px: both sides must be multiples of {multiple} px: pad "
            "it first (ops.padding.pad_to_multiple)"
        )


def crop_to_valid(
    feature: Float[Tensor, "b c fh fw"], valid_hw: tuple[int, int], stride: int
) -> Float[Tensor, "b c ch cw"]:
    """Return a feature map without the rows and columns that contain only padding.

    Args:
        feature: feature map of the padded image.
        valid_hw: height and width of the image without padding, in pixels.
        stride: image pixels per feature pixel; ``ceil(size / stride)`` rows and columns stay.
    """
    height, width = (-(-size // stride) for size in valid_hw)
    return feature[..., :height, :width]
