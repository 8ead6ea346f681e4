"""Transforms of image and labels together: the augmentation of GLPDepth and its successors.

All random numbers come from the generator that the trainer seeds with (seed, epoch, sample). So a
sample of an epoch has the same bytes in every process. Colour transforms follow albumentations 1.3
on 8-bit images, which the authors used, including the truncation to whole numbers.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.errors import InputError
from diffsight.ops.resize import nearest_pixels, resize_label_and_mask


class CutDepth(AbstractTransform):
    """Replace a vertical strip of the image by its depth, drawn in gray.

    In an image of W columns, the strip starts at column ``int(a W)`` and is
    ``int(max(0.75 b (W - a W), 1))`` columns wide, with a and b uniform in [0, 1).

    Differs from the authors' code in two ways. Theirs changes every fourth sample that a worker
    reads; ours changes each sample with ``probability``, so that a sample does not depend on the
    samples before it. Theirs writes millimetres into 8-bit pixels, which wrap around every 256 mm;
    ours writes depth as a fraction of ``max_depth_m`` (255 at and beyond it, 0 where depth is not
    valid).

    Args:
        probability: probability of changing a sample.
        max_depth_m: depth that is drawn white, in metres.
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
    """Mirror image, labels and camera horizontally; the x component of normals changes its sign.

    Args:
        probability: probability of changing a sample.
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, or its mirror image.

        Raises:
            InputError: if a sample to be mirrored has people or sentences.
        """
        if not chance(generator, self.probability):
            return sample
        if sample.sentences:
            raise InputError(
                f"{sample.id}: a mirrored image does not fit a sentence with left or right: leave "
                "HorizontalFlip out"
            )
        flipped = _change_grid(sample, lambda grid: grid.flip(-1))
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
    """Crop image and labels to a window of fixed size at a uniformly random position.

    Args:
        height: height of the window in pixels.
        width: width of the window in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample cropped to the window.

        Raises:
            InputError: if the image is smaller than the window, or the sample has people.
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
    """Resize image and labels to a fixed size.

    The image is interpolated (bilinear, antialiased). Labels take the nearest value, because a mean
    of two depths or of two class ids would be wrong.

    Args:
        height: height in pixels.
        width: width in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample at the new size. The generator is not used."""
        return resize(sample, self.height, self.width)


class RandomBrightnessContrast(AbstractTransform):
    """Change brightness and contrast: ``v -> (1 + c) v + 255 b`` with b and c uniform around 0.

    Args:
        brightness: largest absolute value of b, a fraction of the range of pixel values.
        contrast: largest absolute value of c.
        probability: probability of changing a sample.
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
        return replace(
            sample, image=_apply_table(torch.arange(256.0) * gain + offset, sample.image)
        )


class RandomGamma(AbstractTransform):
    """Change gamma: ``v -> 255 (v / 255) ** gamma`` with gamma uniform between two limits.

    Args:
        low_percent: 100 times the lowest gamma.
        high_percent: 100 times the highest gamma.
        probability: probability of changing a sample.
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
        return replace(sample, image=_apply_table(table, sample.image))


class HueSaturationValue(AbstractTransform):
    """Shift hue, saturation and value, each uniform around 0, in 8-bit HSV.

    Args:
        hue: largest shift, in steps of 2 degrees (OpenCV's scale of 0 to 179).
        saturation: largest shift, on a scale of 0 to 255.
        value: largest shift, on a scale of 0 to 255.
        probability: probability of changing a sample.
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
    """Remove the prompt of a sample, so that the model is also trained without a prompt.

    A model with a text table uses the mean of the table if there is no prompt. Without this
    transform, it would never see that input in training.

    Args:
        probability: probability of changing a sample.
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample, with or without its prompt."""
        return replace(sample, prompt=None) if chance(generator, self.probability) else sample


class RandomSentence(AbstractTransform):
    """Use one of the sentences about the labelled object as the prompt, drawn anew each time."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with one of its sentences as its prompt; unchanged if it has none."""
        if not sample.sentences:
            return sample
        return replace(sample, prompt=sample.sentences[integer(generator, len(sample.sentences))])


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Return the sample cropped to the window with top-left pixel (top, left); sizes in pixels.

    Raises:
        InputError: if the sample has people.
    """
    rows, columns = slice(top, top + height), slice(left, left + width)
    window = _change_grid(sample, lambda grid: grid[..., rows, columns])
    if sample.boxes is not None:
        window = replace(window, boxes=sample.boxes.cropped(top, left, height, width))
    if sample.camera is None:
        return window
    cx_px, cy_px = sample.camera.cx_px - left, sample.camera.cy_px - top
    return replace(window, camera=replace(sample.camera, cx_px=cx_px, cy_px=cy_px))


def resize(sample: Sample, height: int, width: int, *, keep_strokes: bool = True) -> Sample:
    """Return the sample with image (bilinear, antialiased), labels (nearest) and camera resized.

    Args:
        sample: sample of any size.
        height: new height in pixels.
        width: new width in pixels.
        keep_strokes: if the nearest pixel has no label, use the label of a labelled neighbour (see
            ``resize_label_and_mask``).

    Raises:
        InputError: if the sample has people.
    """
    refuse_people(sample)
    old_height, old_width = sample.image.shape[-2:]
    image = F.interpolate(
        sample.image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    if keep_strokes:
        maps = {
            name: resize_label_and_mask(label, sample.valid[name], (height, width))
            for name, label in sample.labels.items()
        }
        labels, valid = ({name: pair[i] for name, pair in maps.items()} for i in range(2))
        scaled = replace(sample, labels=labels, valid=valid)
    else:
        rows, columns = (
            nearest_pixels(old_height, height)[:, None],
            nearest_pixels(old_width, width),
        )
        scaled = _change_grid(sample, lambda grid: grid[..., rows, columns])
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
    """Return hue in steps of 2 degrees (0 to 179), saturation and value (both 0 to 255)."""
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
    """Return the inverse of ``rgb_to_hsv``, truncated to whole numbers as in OpenCV."""
    hue, saturation, value = hsv
    chroma = value * saturation / 255
    channels = []
    for offset in (5, 3, 1):
        position = (hue / 30 + offset).remainder_(6)
        weight = torch.minimum(position, 4 - position).clamp_(0, 1)
        channels.append(value - chroma * weight)
    return torch.stack(channels).to(torch.uint8)


def _change_grid(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """Return the sample with ``change`` applied to image, labels and validity masks.

    Raises:
        InputError: if the sample has people.
    """
    refuse_people(sample)
    return replace(
        sample,
        image=change(sample.image),
        labels={name: change(label) for name, label in sample.labels.items()},
        valid={name: change(mask) for name, mask in sample.valid.items()},
    )


def refuse_people(sample: Sample) -> None:
    """Raise an error for a sample whose labels are joints, which are not maps of pixels.

    Raises:
        InputError: if the sample has people.
    """
    if sample.people is not None:
        raise InputError(f"sample {sample.id}: its labels are joints: augment it with PersonCrop")


def _apply_table(
    table: Float[Tensor, "256"], image: UInt8[Tensor, "3 h w"]
) -> UInt8[Tensor, "3 h w"]:
    """Return the image with every pixel value v replaced by ``table[v]``, truncated to 8 bits."""
    levels = table.clamp(0, 255).to(torch.uint8)
    return levels.index_select(0, image.flatten().int()).view_as(image)


def uniform(generator: Generator, low: float, high: float) -> float:
    """Return a uniformly random number in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def chance(generator: Generator, probability: float) -> bool:
    """Return True with the given probability, else False."""
    return uniform(generator, 0.0, 1.0) < probability


def integer(generator: Generator, count: int) -> int:
    """Return a random whole number in [0, count)."""
    return int(torch.randint(count, (), generator=generator))
