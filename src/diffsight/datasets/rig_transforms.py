"""Random augmentation of a vehicle's camera images and coordinate frame, as in BEVFusion."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.datasets.transforms import chance, integer, uniform
from diffsight.errors import InputError
from diffsight.ops.camera_crop import CameraCrop, scaled_hw
from diffsight.rig import Rig


class RandomCameras(AbstractTransform):
    """Scale, crop, mirror and rotate the image of every camera independently.

    The crop touches the lower edge of the image; its horizontal position is random.

    Args:
        hw: height and width of the crop in pixels.
        scale: lowest and highest factor by which the image is scaled before the crop.
        degrees: largest rotation of the crop in degrees, in both directions.
        mirror_probability: probability of mirroring an image.

    Raises:
        InputError: if a number is not positive.
    """

    accepts_rigs = True

    def __init__(
        self,
        *,
        hw: tuple[int, int] = (256, 704),
        scale: tuple[float, float] = (0.38, 0.55),
        degrees: float = 5.4,
        mirror_probability: float = 0.5,
    ) -> None:
        if min(*hw, *scale) <= 0:
            raise InputError(f"hw {tuple(hw)} and scale {tuple(scale)} must be positive numbers")
        self.hw = (hw[0], hw[1])
        self.scale = scale
        self.degrees = degrees
        self.mirror_probability = mirror_probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with augmented images, and ``rig.image_change`` updated accordingly.

        Raises:
            InputError: if the sample is a single image, not a rig.
        """
        rig = require_rig(sample, "RandomCameras")
        crops = []
        for number in range(rig.images.shape[1]):
            camera = replace(
                rig,
                **{
                    name: getattr(rig, name)[:, number : number + 1]
                    for name in ("images", "intrinsics", "camera_to_vehicle", "image_change")
                },
            )
            hw = (rig.images.shape[-2], rig.images.shape[-1])
            crops.append(self._draw_crop(hw, generator).rig(camera).in_bytes())
        images = torch.cat([crop.images for crop in crops], dim=1)
        changes = torch.cat([crop.image_change for crop in crops], dim=1)
        return replace(sample, rig=replace(rig, images=images, image_change=changes))

    def _draw_crop(self, hw: tuple[int, int], generator: Generator) -> CameraCrop:
        """Return a random crop for images of this height and width in pixels."""
        scale = uniform(generator, *self.scale)
        height, width = scaled_hw(hw, scale)
        left = integer(generator, max(0, width - self.hw[1]) + 1)
        is_mirrored = chance(generator, self.mirror_probability)
        degrees = uniform(generator, -self.degrees, self.degrees)
        return CameraCrop(scale, height - self.hw[0], left, self.hw, is_mirrored, degrees)


class RandomVehicle(AbstractTransform):
    """Rotate, shift, scale and mirror the vehicle's coordinate frame, and draw its map again in it.

    Args:
        degrees: largest rotation around the vertical axis in degrees, in both directions.
        scale: lowest and highest factor of all lengths.
        shift_m: standard deviation of the shift along each axis, in metres before scaling.
        mirror_probability: probability of mirroring a horizontal axis, for each of the two.
        label: key of ``Sample.labels`` of the map.

    Raises:
        InputError: if a scale is not positive.
    """

    accepts_rigs = True

    def __init__(
        self,
        *,
        degrees: float = 45.0,
        scale: tuple[float, float] = (0.9, 1.1),
        shift_m: float = 0.5,
        mirror_probability: float = 0.5,
        label: str = "map",
    ) -> None:
        if min(scale) <= 0:
            raise InputError(f"scale {tuple(scale)} must be positive numbers")
        self.degrees = degrees
        self.scale = scale
        self.shift_m = shift_m
        self.mirror_probability = mirror_probability
        self.label = label

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with a random ``rig.vehicle_change``, and the map in the changed frame.

        Raises:
            InputError: if the sample is a single image, or its map cannot be drawn again.
        """
        rig = require_rig(sample, "RandomVehicle")
        if sample.map_source is None:
            raise InputError(
                f"sample {sample.id}: its map cannot be drawn again: remove RandomVehicle from the "
                "recipe, or set preload to 0, since preloaded samples have no map source"
            )
        rig = change_frame(rig, self._draw_change(generator))
        assert rig.vehicle_change is not None
        labels = {**sample.labels, self.label: sample.map_source.draw(rig.vehicle_change[0])}
        return replace(sample, labels=labels, rig=rig)

    def _draw_change(self, generator: Generator) -> Float[Tensor, "4 4"]:
        """Return a random matrix from the original frame to a new one."""
        turn = math.radians(uniform(generator, -self.degrees, self.degrees))
        scale = uniform(generator, *self.scale)
        matrix = torch.eye(4)
        cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
        matrix[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])
        matrix[2, 2] = scale
        matrix[:3, 3] = scale * self.shift_m * torch.randn(3, generator=generator)
        for axis in range(2):
            if chance(generator, self.mirror_probability):
                matrix[axis] *= -1
        return matrix


def require_rig(sample: Sample, transform: str) -> Rig:
    """Return the rig of a sample.

    Args:
        sample: sample with a rig.
        transform: name of the transform, for the message.

    Raises:
        InputError: if the sample is a single image.
    """
    if sample.rig is None:
        problem = f"sample {sample.id} is one image, not a rig"
        raise InputError(f"{problem}: remove {transform} from the recipe")
    return sample.rig


def change_frame(rig: Rig, change: Float[Tensor, "4 4"]) -> Rig:
    """Return the rig with one more change of its coordinate frame, after the earlier ones."""
    before = torch.eye(4)[None] if rig.vehicle_change is None else rig.vehicle_change
    return replace(rig, vehicle_change=change @ before)
