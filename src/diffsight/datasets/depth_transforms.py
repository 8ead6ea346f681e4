"""Paired augmentation of depth as DDP's authors trained with it (that of BTS and DepthFormer)."""

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
    """Keep one fixed window of image and labels; nothing random in it.

    Args:
        top: first row.
        left: first column.
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, *, top: int, left: int, height: int, width: int) -> None:
        self.top = top
        self.left = left
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the window; the generator is not used.

        Raises:
            InputError: if the image is smaller.
        """
        height, width = sample.image.shape[-2:]
        bottom, right = self.top + self.height, self.left + self.width
        if height < bottom or width < right:
            raise InputError(
                f"sample {sample.id}: its image of {height} x {width} (height x width) ends before "
                f"row {bottom} and column {right}, where the window ends: choose another window"
            )
        return crop(sample, self.top, self.left, self.height, self.width)


class RandomRotation(AbstractTransform):
    """Turn image and labels around the centre; corners become black, and have no label.

    The image is interpolated (bilinear), labels take the nearest value.

    Args:
        degrees: largest angle, in both directions.
        probability: of changing a sample.
    """

    def __init__(self, *, degrees: float = 2.5, probability: float = 0.5) -> None:
        self.degrees = degrees
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, or the same turned; the camera is then not known.

        Raises:
            InputError: if there are boxes, joints or normals, which change in other ways.
        """
        refuse_people(sample)
        if sample.boxes is not None or "normals" in sample.labels:
            what = "boxes" if sample.boxes is not None else "normals"
            raise InputError(
                f"sample {sample.id}: its labels are {what}: take RandomRotation out of the recipe"
            )
        if not chance(generator, self.probability):
            return sample
        angle = math.radians(uniform(generator, -self.degrees, self.degrees))
        grid = _turned(sample.image.shape[-2], sample.image.shape[-1], angle)

        def taken(values: Tensor, mode: str) -> Tensor:
            stack = values.reshape(1, -1, *values.shape[-2:]).double()
            found = functional.grid_sample(stack, grid, mode=mode, align_corners=True)
            return found.reshape(values.shape)

        nearest = {k: taken(v, "nearest").to(v.dtype) for k, v in sample.labels.items()}
        valid = {k: taken(v, "nearest") > 0 for k, v in sample.valid.items()}
        image = taken(sample.image, "bilinear").round().to(torch.uint8)
        return replace(sample, image=image, labels=nearest, valid=valid, camera=None)


class RandomGain(AbstractTransform):
    """``v -> 255 (v / 255) ** gamma * brightness * colour``, all three random, cut at 255.

    Args:
        gamma: range of the exponent.
        brightness: range of one factor for all channels.
        colour: range of a factor for each channel.
        probability: of changing a sample.
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
        """Return the sample with a changed image."""
        if not chance(generator, self.probability):
            return sample
        gamma, brightness = (uniform(generator, *r) for r in (self.gamma, self.brightness))
        colours = torch.tensor([uniform(generator, *self.colour) for _ in range(3)])
        gains = (brightness * colours)[:, None, None]
        image = 255 * (sample.image / 255) ** gamma * gains
        return replace(sample, image=image.clamp(0, 255).round().to(torch.uint8))


def _turned(height: int, width: int, angle: float) -> Tensor:
    """Return where every pixel of the turned image lies in the image, for ``grid_sample``."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    cosine, sine = math.cos(angle), math.sin(angle)
    columns, rows = cosine * x + sine * y, cosine * y - sine * x
    sides = torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    return (2 * torch.stack([columns, rows], dim=-1) / sides)[None]
