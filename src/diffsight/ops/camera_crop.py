"""Scale, crop, mirror and rotate camera images, with the matrix that maps their pixels."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.ops.resize import resize_image
from diffsight.rig import Rig


@dataclass(frozen=True)
class CameraCrop:
    """A change of an image: scale, crop, mirror and rotation, in this order (BEVFusion).

    Attributes:
        scale: factor of both sides.
        top_px: first row of the crop in the scaled image; pixels outside the image are black.
        left_px: first column of the crop.
        hw: height and width of the crop in pixels.
        is_mirrored: whether left and right are swapped.
        degrees: rotation of the crop around its centre, counter-clockwise.
    """

    scale: float
    top_px: int
    left_px: int
    hw: tuple[int, int]
    is_mirrored: bool = False
    degrees: float = 0.0

    @classmethod
    def lower_middle(
        cls, image_hw: tuple[int, int], hw: tuple[int, int], scale: float
    ) -> "CameraCrop":
        """Return the crop at the middle of the lower edge of the scaled image.

        Args:
            image_hw: height and width of the image in pixels.
            hw: height and width of the crop in pixels.
            scale: factor of both sides of the image before the crop.
        """
        height, width = scaled_hw(image_hw, scale)
        return cls(scale, height - hw[0], max(0, width - hw[1]) // 2, hw)

    def images(self, images: Float[Tensor, "n 3 _ _"]) -> Float[Tensor, "n 3 h w"]:
        """Return the scaled, cropped, mirrored and rotated images."""
        height, width = scaled_hw((images.shape[-2], images.shape[-1]), self.scale)
        scaled = resize_image(images, (height, width))
        left, top = self.left_px, self.top_px
        right, bottom = self.hw[1] - width + left, self.hw[0] - height + top
        crop = functional.pad(scaled, (-left, right, -top, bottom))
        if self.is_mirrored:
            crop = crop.flip(-1)
        return self._rotate(crop) if self.degrees else crop

    def matrix(self) -> Float[Tensor, "4 4"]:
        """Return the matrix from pixels of an image to pixels of the crop; depth is unchanged."""
        height, width = self.hw
        matrix = torch.diag(torch.tensor([self.scale, self.scale, 1.0, 1.0]))
        matrix[:2, 3] = -torch.tensor([self.left_px, self.top_px]).float()
        if self.is_mirrored:
            mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
            mirror[0, 3] = width
            matrix = mirror @ matrix
        turn = torch.eye(4)
        turn[:2, :2] = self._rotation()
        centre = torch.tensor([width / 2, height / 2])
        turn[:2, 3] = centre - turn[:2, :2] @ centre
        return turn @ matrix

    def rig(self, rig: Rig) -> Rig:
        """Return a rig with all its images changed, as floats in [0, 1], and ``image_change``."""
        shape = rig.images.shape[:2]
        images = self.images(rig.in_floats().images.flatten(0, 1)).unflatten(0, shape)
        matrix = self.matrix().to(rig.image_change)
        # not a matrix product, which autocast and TF32 would round
        change = (matrix[:, :, None] * rig.image_change[..., None, :, :]).sum(dim=-2)
        return replace(rig, images=images, image_change=change)

    def _rotation(self) -> Float[Tensor, "2 2"]:
        turn = math.radians(self.degrees)
        cosine, sine = math.cos(turn), math.sin(turn)
        return torch.tensor([[cosine, sine], [-sine, cosine]])

    def _rotate(self, crop: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        height, width = self.hw
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        half = torch.tensor([width / 2, height / 2])
        source = (torch.stack([x, y], dim=-1) - half) @ self._rotation()  # its inverse, transposed
        grid = (source / half).to(crop).expand(len(crop), -1, -1, -1)
        return functional.grid_sample(crop, grid, mode="bilinear", align_corners=False)


def scaled_hw(hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return height and width times ``scale``, rounded down to whole pixels.

    Rounding errors of the product do not change the result.
    """
    height, width = (int(side * scale + 1e-6) for side in hw)
    return height, width
