"""Augmentation for segmentation, as in mmsegmentation's training pipeline for ADE20K."""

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

GREY = 128  # colour of the padding, about 0 after normalisation
MAX_TRIES = 10


class RandomScale(AbstractTransform):
    """Scale by a random factor and keep the aspect ratio.

    The shorter side becomes ``short_side`` times the factor, unless the longer side would exceed
    ``long_side`` times the factor.

    Args:
        short_side: length of the shorter side in pixels at factor 1.
        long_side: largest length of the longer side in pixels at factor 1.
        factors: smallest and largest factor.
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
        """Return the sample scaled to a random size."""
        factor = uniform(generator, *self.factors)
        short, long = int(self.short_side * factor), int(self.long_side * factor)
        height, width = sample.image.shape[-2:]
        hw = working_hw(height, width, max(1, short), max(1, long))
        return resize(sample, *hw, keep_strokes=False)  # as mmsegmentation does


class ClassCrop(AbstractTransform):
    """Crop a random window that no single class dominates.

    Up to 10 windows are drawn until one has at least two classes and its most frequent class has
    less than the fraction ``most`` of the labelled pixels. Otherwise the last window is used.

    Args:
        height: height of the window in pixels; a lower image keeps its height.
        width: width of the window in pixels; a narrower image keeps its width.
        most: upper limit of the fraction of pixels of one class, in [0, 1].
        label: key of ``Sample.labels`` with class ids.
    """

    def __init__(
        self, *, height: int, width: int, most: float = 0.75, label: str = "semantic"
    ) -> None:
        self.height = height
        self.width = width
        self.most = most
        self.label = label

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the window; apply ``Pad`` as the last transform to bring it to full size."""
        height, width = sample.image.shape[-2:]
        rows, columns = min(self.height, height), min(self.width, width)
        window = sample
        for _ in range(MAX_TRIES):
            top = integer(generator, height - rows + 1)
            left = integer(generator, width - columns + 1)
            window = crop(sample, top, left, rows, columns)
            ids = window.labels[self.label][window.valid[self.label]]
            counts = torch.bincount(ids.flatten())
            if (counts > 0).sum() > 1 and counts.max() < self.most * counts.sum():
                break
        return window


class Pad(AbstractTransform):
    """Pad smaller images with grey at the bottom and on the right; the padding has no label.

    Args:
        height: minimum height in pixels.
        width: minimum width in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with an image of at least ``height`` x ``width``."""
        rows, columns = sample.image.shape[-2:]
        right, bottom = max(0, self.width - columns), max(0, self.height - rows)

        def pad(grid: Tensor, value: int) -> Tensor:
            return F.pad(grid, (0, right, 0, bottom), value=value)

        return replace(
            sample,
            image=pad(sample.image, GREY),
            labels={name: pad(label, 0) for name, label in sample.labels.items()},
            valid={
                name: pad(mask.to(torch.uint8), 0).bool() for name, mask in sample.valid.items()
            },
        )


class PhotoMetricDistortion(AbstractTransform):
    """Change brightness, contrast, saturation and hue, each with probability 1/2.

    Contrast is changed right after brightness or at the end, with equal probability.

    Args:
        brightness: largest offset of the pixel values, on a scale of 0 to 255.
        contrast: smallest and largest factor of the pixel values.
        saturation: smallest and largest factor of the saturation.
        hue: largest shift of the hue, in steps of 2 degrees (a full turn has 180).
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
        """Return the sample with a changed image."""
        image = sample.image
        if chance(generator, 0.5):
            image = _to_uint8(image + uniform(generator, -self.brightness, self.brightness))
        is_contrast_first = chance(generator, 0.5)
        if is_contrast_first and chance(generator, 0.5):
            image = _to_uint8(image * uniform(generator, *self.contrast))
        if chance(generator, 0.5):
            hue, saturation, value = rgb_to_hsv(image)
            saturation = (saturation * uniform(generator, *self.saturation)).clamp(0, 255).floor()
            image = hsv_to_rgb(torch.stack([hue, saturation, value]))
        if chance(generator, 0.5):
            hue, saturation, value = rgb_to_hsv(image)
            shift = integer(generator, 2 * self.hue) - self.hue
            image = hsv_to_rgb(torch.stack([(hue + shift) % 180, saturation, value]))
        if not is_contrast_first and chance(generator, 0.5):
            image = _to_uint8(image * uniform(generator, *self.contrast))
        return replace(sample, image=image)


def _to_uint8(values: Tensor) -> Tensor:
    """Return values clamped to 0..255 and truncated to integers, as mmsegmentation does."""
    return values.clamp(0, 255).to(torch.uint8)
