"""Paired augmentation of segmentation: what mmsegmentation's recipes train with on ADE20K."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.datasets.transforms import (
    chance,
    crop,
    hsv_to_rgb,
    integer,
    resize,
    rgb_to_hsv,
    uniform,
)
from diffsight.ops.resize import working_hw

GREY = 128  # of padding: the middle of the range, 0 after normalisation
TRIES = 10


class RandomScale(AbstractTransform):
    """Scale so that the shorter side is ``short_side`` times a random factor; the shape stays.

    Args:
        short_side: in pixels, at factor 1.
        long_side: most that the longer side may have, at factor 1.
        factors: lowest and highest.
    """

    def __init__(
        self,
        *,
        short_side: int = 512,
        long_side: int = 2048,
        factors: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        self.short_side = short_side
        self.long_side = long_side
        self.factors = factors

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample at a random size."""
        factor = uniform(generator, *self.factors)
        short, long = int(self.short_side * factor), int(self.long_side * factor)
        height, width = sample.image.shape[-2:]
        hw = working_hw(height, width, max(1, short), max(1, long))
        return resize(sample, *hw, keep_strokes=False)  # as mmsegmentation does


class ClassCrop(AbstractTransform):
    """A window in which no class has nearly everything.

    Up to 10 windows are tried until the most frequent class has less than ``most`` of the labelled
    pixels and is not alone.

    Args:
        height: of the window in pixels; a smaller image keeps its own.
        width: of the window in pixels, likewise.
        most: largest fraction of one class.
        label: key of the class ids.
    """

    def __init__(
        self, *, height: int, width: int, most: float = 0.75, label: str = "semantic"
    ) -> None:
        self.height = height
        self.width = width
        self.most = most
        self.label = label

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the window; ``Pad`` comes last, after changes of colour, and completes it."""
        height, width = sample.image.shape[-2:]
        rows, columns = min(self.height, height), min(self.width, width)
        window = sample
        for _ in range(TRIES):
            top = integer(generator, height - rows + 1)
            left = integer(generator, width - columns + 1)
            window = crop(sample, top, left, rows, columns)
            ids = window.labels[self.label][window.valid[self.label]]
            counts = torch.bincount(ids.flatten())
            if (counts > 0).sum() > 1 and counts.max() < self.most * counts.sum():
                break
        return window


class Pad(AbstractTransform):
    """Grey below and to the right of smaller images, which has no label.

    Args:
        height: least height in pixels.
        width: least width in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, of at least ``height`` x ``width``."""
        rows, columns = sample.image.shape[-2:]
        right, bottom = max(0, self.width - columns), max(0, self.height - rows)

        def fill(grid: Tensor, value: int) -> Tensor:
            return F.pad(grid, (0, right, 0, bottom), value=value)

        return replace(
            sample,
            image=fill(sample.image, GREY),
            labels={name: fill(label, 0) for name, label in sample.labels.items()},
            valid={
                name: fill(mask.to(torch.uint8), 0).bool() for name, mask in sample.valid.items()
            },
        )


class PhotoMetricDistortion(AbstractTransform):
    """Brightness, contrast, saturation and hue, each with probability 1/2; contrast comes first or
    last, which is drawn too.

    Args:
        brightness: largest change of the values, of 255.
        contrast: lowest and highest factor.
        saturation: lowest and highest factor.
        hue: largest turn, of 180.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample in other colours."""
        image = sample.image
        if chance(generator, 0.5):
            image = _bytes(image + uniform(generator, -self.brightness, self.brightness))
        early = chance(generator, 0.5)
        if early and chance(generator, 0.5):
            image = _bytes(image * uniform(generator, *self.contrast))
        if chance(generator, 0.5):
            hue, saturation, value = rgb_to_hsv(image)
            saturation = (saturation * uniform(generator, *self.saturation)).clamp(0, 255).floor()
            image = hsv_to_rgb(torch.stack([hue, saturation, value]))
        if chance(generator, 0.5):
            hue, saturation, value = rgb_to_hsv(image)
            turn = integer(generator, 2 * self.hue) - self.hue
            image = hsv_to_rgb(torch.stack([(hue + turn) % 180, saturation, value]))
        if not early and chance(generator, 0.5):
            image = _bytes(image * uniform(generator, *self.contrast))
        return replace(sample, image=image)


def _bytes(values: Tensor) -> Tensor:
    """Cut to whole numbers from 0 to 255, as the original does."""
    return values.clamp(0, 255).to(torch.uint8)
