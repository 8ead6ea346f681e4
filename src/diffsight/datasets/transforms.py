"""Paired augmentation: what the depth methods of the GLPDepth line train with, and a resize.

Every random number comes from the generator that the trainer seeds by (seed, epoch, sample), so a
sample of an epoch is the same bytes in any process. The changes of colour have the meaning (and the
truncation to whole numbers) of albumentations 1.3 on 8-bit images, which the authors used.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.errors import InputError
from diffsight.ops.resize import nearest, resized_label_and_mask


class CutDepth(AbstractTransform):
    """Replace a vertical strip of the image by the depth itself, as gray.

    The strip starts at ``int(a W)`` and is ``int(max(0.75 b (W - a W), 1))`` columns wide, with
    a and b uniform in [0, 1).

    Differs from the authors' code: theirs takes every fourth sample of a worker, ours each with
    ``probability``, so that a sample does not depend on what was read before it; theirs writes
    millimetres into 8-bit pixels, which wraps around every 256 mm, ours the share of
    ``max_depth_m`` (255 at and beyond it, 0 where depth is not valid).

    Args:
        probability: of changing a sample.
        max_depth_m: depth drawn as white.
    """

    def __init__(self, *, probability: float = 0.25, max_depth_m: float = 10.0) -> None:
        self.probability = probability
        self.max_depth_m = max_depth_m

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with a strip of depth in its image.

        Raises:
            InputError: if the sample has no label ``depth_m``.
        """
        if "depth_m" not in sample.labels:
            raise InputError(f"sample {sample.id} has no depth_m: remove CutDepth from the recipe")
        if not chance(generator, self.probability):
            return sample
        width = sample.image.shape[-1]
        start, fraction = uniform(generator, 0.0, float(width)), uniform(generator, 0.0, 0.75)
        strip = slice(int(start), int(start) + int(max((width - start) * fraction, 1)))
        depth_m = sample.labels["depth_m"][..., strip] * sample.valid["depth_m"][..., strip]
        image = sample.image.clone()
        image[..., strip] = (depth_m * (255 / self.max_depth_m)).clamp(0, 255).to(torch.uint8)
        return replace(sample, image=image)


class HorizontalFlip(AbstractTransform):
    """Mirror image, labels and camera; normals also change the sign of x.

    Args:
        probability: of changing a sample.
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, or its mirror image."""
        if not chance(generator, self.probability):
            return sample
        flipped = _move(sample, lambda grid: grid.flip(-1))
        if sample.boxes is not None:
            flipped = replace(flipped, boxes=sample.boxes.mirrored(sample.image.shape[-1]))
        if "normals" in flipped.labels:
            mirror = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
            labels = {**flipped.labels, "normals": flipped.labels["normals"] * mirror}
            flipped = replace(flipped, labels=labels)
        if sample.camera is None:
            return flipped
        cx_px = sample.image.shape[-1] - 1 - sample.camera.cx_px
        return replace(flipped, camera=replace(sample.camera, cx_px=cx_px))


class RandomCrop(AbstractTransform):
    """Cut a window of a fixed size out of image and labels, every position equally likely.

    Args:
        height: of the window in pixels.
        width: of the window in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the window.

        Raises:
            InputError: if the image is smaller than the window.
        """
        height, width = sample.image.shape[-2:]
        if height < self.height or width < self.width:
            raise InputError(
                f"sample {sample.id}: its image of {height} x {width} (height x width) is smaller "
                f"than the crop of {self.height} x {self.width}: make the crop smaller, or put a "
                "Resize before it"
            )
        top = integer(generator, height - self.height + 1)
        left = integer(generator, width - self.width + 1)
        return crop(sample, top, left, self.height, self.width)


class Resize(AbstractTransform):
    """Scale image and labels to a fixed size; nothing random in it.

    The image is interpolated (bilinear, antialiased). Labels take the nearest value, so that no
    depth between two surfaces and no class between two classes is invented.

    Args:
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample at the new size; the generator is not used."""
        return resize(sample, self.height, self.width)


class RandomBrightnessContrast(AbstractTransform):
    """``v -> (1 + c) v + 255 b`` with b and c uniform around 0.

    Args:
        brightness: largest size of b.
        contrast: largest size of c.
        probability: of changing a sample.
    """

    def __init__(
        self, *, brightness: float = 0.2, contrast: float = 0.2, probability: float = 0.5
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with a changed image."""
        if not chance(generator, self.probability):
            return sample
        gain = 1 + uniform(generator, -self.contrast, self.contrast)
        offset = 255 * uniform(generator, -self.brightness, self.brightness)
        return replace(sample, image=_look_up(torch.arange(256.0) * gain + offset, sample.image))


class RandomGamma(AbstractTransform):
    """``v -> 255 (v / 255) ** gamma`` with gamma uniform between two limits.

    Args:
        low_percent: 100 times the lowest gamma.
        high_percent: 100 times the highest gamma.
        probability: of changing a sample.
    """

    def __init__(
        self, *, low_percent: float = 80.0, high_percent: float = 120.0, probability: float = 0.5
    ) -> None:
        self.low_percent = low_percent
        self.high_percent = high_percent
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with a changed image."""
        if not chance(generator, self.probability):
            return sample
        gamma = uniform(generator, self.low_percent, self.high_percent) / 100
        table = (torch.arange(256, dtype=torch.float64) / 255) ** gamma * 255
        return replace(sample, image=_look_up(table, sample.image))


class HueSaturationValue(AbstractTransform):
    """Shift hue, saturation and value, each uniform around 0, in 8-bit HSV.

    Args:
        hue: largest shift, in steps of 2 degrees (OpenCV's scale of 0 to 179).
        saturation: largest shift, on a scale of 0 to 255.
        value: largest shift, on a scale of 0 to 255.
        probability: of changing a sample.
    """

    def __init__(
        self,
        *,
        hue: float = 20.0,
        saturation: float = 30.0,
        value: float = 20.0,
        probability: float = 0.5,
    ) -> None:
        self.hue = hue
        self.saturation = saturation
        self.value = value
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with a changed image."""
        if not chance(generator, self.probability):
            return sample
        shifts = [uniform(generator, -s, s) for s in (self.hue, self.saturation, self.value)]
        hue, saturation, value = rgb_to_hsv(sample.image)
        hue = ((hue + shifts[0]) % 180).floor()
        saturation = (saturation + shifts[1]).clamp(0, 255).floor()
        value = (value + shifts[2]).clamp(0, 255).floor()
        return replace(sample, image=hsv_to_rgb(torch.stack([hue, saturation, value])))


class DropPrompt(AbstractTransform):
    """Forget the sample's text name, so that a model also learns to do without one.

    Without it, a model with a text table gets an input that it was never trained on when no name is
    given: the mean of the table.

    Args:
        probability: of changing a sample.
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, or the same without its name."""
        return replace(sample, prompt=None) if chance(generator, self.probability) else sample


class RandomSentence(AbstractTransform):
    """Another sentence about the labelled thing every time; a sample without any stays."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with one of its sentences as its prompt."""
        if not sample.sentences:
            return sample
        return replace(sample, prompt=sample.sentences[integer(generator, len(sample.sentences))])


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Return the window of image, labels and camera whose first pixel is (top, left)."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    window = _move(sample, lambda grid: grid[..., rows, columns])
    if sample.boxes is not None:
        window = replace(window, boxes=sample.boxes.cropped(top, left, height, width))
    if sample.camera is None:
        return window
    cx_px, cy_px = sample.camera.cx_px - left, sample.camera.cy_px - top
    return replace(window, camera=replace(sample.camera, cx_px=cx_px, cy_px=cy_px))


def resize(sample: Sample, height: int, width: int, *, keep_strokes: bool = True) -> Sample:
    """Return image (bilinear, antialiased), labels (nearest) and camera at another size.

    Args:
        sample: of any size.
        height: in pixels.
        width: in pixels.
        keep_strokes: where the nearest pixel has no label, take that of a labelled neighbour
            (``resized_label_and_mask``).
    """
    refuse_people(sample)
    old_height, old_width = sample.image.shape[-2:]
    image = F.interpolate(
        sample.image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    if keep_strokes:
        maps = {
            name: resized_label_and_mask(label, sample.valid[name], (height, width))
            for name, label in sample.labels.items()
        }
        labels, valid = ({name: pair[i] for name, pair in maps.items()} for i in range(2))
        scaled = replace(sample, labels=labels, valid=valid)
    else:
        rows, columns = nearest(old_height, height)[:, None], nearest(old_width, width)
        scaled = _move(sample, lambda grid: grid[..., rows, columns])
    boxes = sample.boxes and sample.boxes.resized((old_height, old_width), (height, width))
    scaled = replace(scaled, image=image, boxes=boxes)
    if sample.camera is None:
        return scaled
    x, y = width / old_width, height / old_height
    camera = replace(
        sample.camera,
        fx_px=sample.camera.fx_px * x,
        fy_px=sample.camera.fy_px * y,
        cx_px=(sample.camera.cx_px + 0.5) * x - 0.5,
        cy_px=(sample.camera.cy_px + 0.5) * y - 0.5,
    )
    return replace(scaled, camera=camera)


def rgb_to_hsv(image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Return hue in steps of 2 degrees (0 to 179), saturation and value (0 to 255)."""
    red, green, blue = image.float()
    value, low = image.amax(0).float(), image.amin(0).float()
    chroma = value - low
    sector = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    hue = (30 * sector / chroma.clamp(min=1)).add_(0.5).floor_().remainder_(180)
    saturation = (255 * chroma / value.clamp(min=1)).add_(0.5).floor_()
    return torch.stack([hue, saturation, value])


def hsv_to_rgb(hsv: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """Return the inverse of ``rgb_to_hsv``, cut to whole numbers as OpenCV does."""
    hue, saturation, value = hsv
    chroma = value * saturation / 255
    channels = []
    for offset in (5, 3, 1):
        place = (hue / 30 + offset).remainder_(6)
        weight = torch.minimum(place, 4 - place).clamp_(0, 1)
        channels.append(value - chroma * weight)
    return torch.stack(channels).to(torch.uint8)


def _move(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """Apply one change of the pixel grid to everything that lies on it."""
    refuse_people(sample)
    return replace(
        sample,
        image=change(sample.image),
        labels={name: change(label) for name, label in sample.labels.items()},
        valid={name: change(mask) for name, mask in sample.valid.items()},
    )


def refuse_people(sample: Sample) -> None:
    """Refuse labels that are joints, which do not lie on the pixel grid.

    Raises:
        InputError: if the sample has people.
    """
    if sample.people is not None:
        raise InputError(f"sample {sample.id}: its labels are joints: augment it with PersonCrop")


def _look_up(table: Float[Tensor, "256"], image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    levels = table.clamp(0, 255).to(torch.uint8)
    return levels.index_select(0, image.flatten().int()).view_as(image)


def uniform(generator: Generator, low: float, high: float) -> float:
    """Return a number in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def chance(generator: Generator, probability: float) -> bool:
    """Return True with this probability."""
    return uniform(generator, 0.0, 1.0) < probability


def integer(generator: Generator, count: int) -> int:
    """Return a whole number from 0 to below ``count``."""
    return int(torch.randint(count, (), generator=generator))
