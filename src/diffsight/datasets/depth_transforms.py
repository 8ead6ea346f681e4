"""Augmentation for depth as in DDP's training, which follows BTS and DepthFormer."""

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.datasets.transforms import chance, crop, refuse_people, uniform
from diffsight.errors import InputError

Range = tuple[float, float]


class FixedCrop(AbstractTransform):
    """Crop image and labels to a fixed window.

    Args:
        top: first row of the window.
        left: first column of the window.
        height: height of the window in pixels.
        width: width of the window in pixels.
    """

    def __init__(self, *, top: int, left: int, height: int, width: int) -> None:
        self.top = top
        self.left = left
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample cropped to the window. The generator is not used.

        Raises:
            InputError: if the window extends beyond the image, or the sample has people.
        """
        height, width = sample.image.shape[-2:]
        bottom, right = self.top + self.height, self.left + self.width
        if height < bottom or width < right:
            raise InputError(
                f"sample {sample.id}: the window ends at row {bottom} and column {right}, outside "
                f"the image of {height} x {width} (height x width): choose another window"
            )
        return crop(sample, self.top, self.left, self.height, self.width)


class RandomRotation(AbstractTransform):
    """Rotate image and labels around the centre by a random angle.

    The image is interpolated bilinearly, labels take the nearest value. Corners that come from
    outside the image become black and have no label.

    Args:
        degrees: largest angle in degrees, in both directions.
        probability: probability of rotating a sample.
    """

    def __init__(self, *, degrees: float = 2.5, probability: float = 0.5) -> None:
        self.degrees = degrees
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, unchanged or rotated; a rotated sample has no camera.

        Raises:
            InputError: if the sample has boxes, joints or normals, which cannot be rotated.
        """
        refuse_people(sample)
        if sample.boxes is not None or "normals" in sample.labels:
            kind = "boxes" if sample.boxes is not None else "normals"
            raise InputError(
                f"sample {sample.id}: {kind} cannot be rotated: remove RandomRotation from the "
                "recipe"
            )
        if not chance(generator, self.probability):
            return sample
        angle = math.radians(uniform(generator, -self.degrees, self.degrees))
        grid = _rotation_grid(sample.image.shape[-2], sample.image.shape[-1], angle)

        def rotate(values: Tensor, mode: str) -> Tensor:
            stack = values.reshape(1, -1, *values.shape[-2:]).double()
            rotated = functional.grid_sample(stack, grid, mode=mode, align_corners=True)
            return rotated.reshape(values.shape)

        labels = {k: rotate(v, "nearest").to(v.dtype) for k, v in sample.labels.items()}
        valid = {k: rotate(v, "nearest") > 0 for k, v in sample.valid.items()}
        image = rotate(sample.image, "bilinear").round().to(torch.uint8)
        return replace(sample, image=image, labels=labels, valid=valid, camera=None)


class RandomGain(AbstractTransform):
    """Change gamma, brightness and colour of the image at random.

    A pixel value v becomes ``255 (v / 255) ** gamma * brightness * colour``, clamped to 0..255.

    Args:
        gamma: smallest and largest exponent.
        brightness: smallest and largest factor for all channels together.
        colour: smallest and largest factor for each channel, drawn separately.
        probability: probability of changing a sample.
    """

    def __init__(
        self,
        *,
        gamma: Range = (0.9, 1.1),
        brightness: Range = (0.9, 1.1),
        colour: Range = (0.9, 1.1),
        probability: float = 0.5,
    ) -> None:
        self.gamma = gamma
        self.brightness = brightness
        self.colour = colour
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, unchanged or with a changed image."""
        if not chance(generator, self.probability):
            return sample
        gamma, brightness = (uniform(generator, *r) for r in (self.gamma, self.brightness))
        colours = torch.tensor([uniform(generator, *self.colour) for _ in range(3)])
        gains = (brightness * colours)[:, None, None]
        image = 255 * (sample.image / 255) ** gamma * gains
        return replace(sample, image=image.clamp(0, 255).round().to(torch.uint8))


def _rotation_grid(height: int, width: int, angle: float) -> Tensor:
    """Return the grid ``1 h w 2`` with which ``grid_sample`` rotates an image by ``angle`` radians.

    The grid has the source position (x, y) of every pixel, in [-1, 1] inside the image.
    """
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    cosine, sine = math.cos(angle), math.sin(angle)
    columns, rows = cosine * x + sine * y, cosine * y - sine * x
    sides = torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    return (2 * torch.stack([columns, rows], dim=-1) / sides)[None]
