"""Random changes of the cameras of a vehicle, and of its frame (BEVFusion)."""

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
    """Scale, crop, mirror and turn the image of every camera by itself.

    A crop is at the lower edge, anywhere from left to right.

    Args:
        hw: height and width of the crop.
        scale: of the image before the crop, from and to.
        degrees: by which the crop is turned at most, to both sides.
        mirror_probability: of mirroring an image.

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
        """Return the sample with changed images and their matrices.

        Raises:
            InputError: if the sample has one image.
        """
        rig = rig_of(sample, "RandomCameras")
        views = []
        for view in range(rig.images.shape[1]):
            one = replace(
                rig,
                **{
                    name: getattr(rig, name)[:, view : view + 1]
                    for name in ("images", "intrinsics", "camera_to_vehicle", "image_change")
                },
            )
            hw = (rig.images.shape[-2], rig.images.shape[-1])
            views.append(self._crop(hw, generator).rig(one).in_bytes())
        images = torch.cat([view.images for view in views], dim=1)
        changes = torch.cat([view.image_change for view in views], dim=1)
        return replace(sample, rig=replace(rig, images=images, image_change=changes))

    def _crop(self, hw: tuple[int, int], generator: Generator) -> CameraCrop:
        scale = uniform(generator, *self.scale)
        height, width = scaled_hw(hw, scale)
        left = integer(generator, max(0, width - self.hw[1]) + 1)
        is_mirrored = chance(generator, self.mirror_probability)
        degrees = uniform(generator, -self.degrees, self.degrees)
        return CameraCrop(scale, height - self.hw[0], left, self.hw, is_mirrored, degrees)


class RandomVehicle(AbstractTransform):
    """Turn, move, scale and mirror the frame of the vehicle, and draw its map again.

    Args:
        degrees: by which it is turned at most, to both sides, around the vertical.
        scale: of all lengths, from and to.
        shift_m: standard deviation of the shift along each axis.
        mirror_probability: of mirroring either horizontal axis.
        label: key of the map.

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
        """Return the sample in another frame.

        Raises:
            InputError: if the sample has one image, or its map cannot be drawn again.
        """
        rig = rig_of(sample, "RandomVehicle")
        if sample.map_source is None:
            raise InputError(
                f"sample {sample.id}: its map cannot be drawn again: remove RandomVehicle from the "
                "recipe, or its preload"
            )
        rig = moved(rig, self._change(generator))
        assert rig.vehicle_change is not None
        labels = {**sample.labels, self.label: sample.map_source.draw(rig.vehicle_change[0])}
        return replace(sample, labels=labels, rig=rig)

    def _change(self, generator: Generator) -> Float[Tensor, "4 4"]:
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


def rig_of(sample: Sample, transform: str) -> Rig:
    """Return the rig of a sample.

    Raises:
        InputError: if it has one image.
    """
    if sample.rig is None:
        what = f"sample {sample.id} is one image, not a rig"
        raise InputError(f"{what}: remove {transform} from the recipe")
    return sample.rig


def moved(rig: Rig, change: Float[Tensor, "4 4"]) -> Rig:
    """Return the rig with a further change of its frame."""
    before = torch.eye(4)[None] if rig.vehicle_change is None else rig.vehicle_change
    return replace(rig, vehicle_change=change @ before)
