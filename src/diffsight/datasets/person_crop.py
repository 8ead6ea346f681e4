"""Crop one person out of an image, with random augmentation as in mmpose."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.datasets.transforms import chance
from diffsight.errors import InputError
from diffsight.label_maps import COCO_KEYPOINTS, compute_mirror_order
from diffsight.ops.affine import enlarge_box, mirror_joints, move_points, view_matrix, warp_image

HALF_BODY_PADDING = 1.5


class PersonCrop(AbstractTransform):
    """Crop one person out of an image: randomly scaled, rotated, mirrored, or only half the body.

    The label becomes the joints of this person, ``1 j 3``: x and y in pixels of the crop, and
    COCO's visibility.

    Args:
        height: height of the crop in pixels.
        width: width of the crop in pixels.
        padding: factor by which the box of the person is enlarged, before the random scale. The box
            of half a body is always enlarged by 1.5.
        scale: standard deviation of the random scale around 1; the scale is limited to
            1 - ``scale`` ... 1 + ``scale``.
        degrees: standard deviation of the rotation in degrees; the rotation is limited to twice
            this angle.
        turn_probability: probability of rotating a person.
        flip_probability: probability of mirroring a person.
        half_body_probability: probability of showing only the upper or the lower half of the body,
            for people with more labelled joints than ``half_body_joints``.
        half_body_joints: number of labelled joints up to which the whole body is always shown.
        upper_joints: number of joints of the upper half of the body; they come first in ``names``.
        names: names of the joints, in the order of the labels.
    """

    def __init__(
        self,
        *,
        height: int = 256,
        width: int = 192,
        padding: float = 1.25,
        scale: float = 0.5,
        degrees: float = 40.0,
        turn_probability: float = 0.6,
        flip_probability: float = 0.5,
        half_body_probability: float = 0.3,
        half_body_joints: int = 8,
        upper_joints: int = 11,
        names: Sequence[str] = COCO_KEYPOINTS,
    ) -> None:
        self.hw = (height, width)
        self.padding = padding
        self.scale = scale
        self.degrees = degrees
        self.turn_probability = turn_probability
        self.flip_probability = flip_probability
        self.half_body_probability = half_body_probability
        self.half_body_joints = half_body_joints
        self.upper_joints = upper_joints
        self.order = compute_mirror_order(names)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the sample with the cropped image and the joints in it.

        Raises:
            InputError: if the sample does not have exactly one person.
        """
        if sample.people is None or len(sample.people) != 1:
            count = 0 if sample.people is None else len(sample.people)
            raise InputError(
                f"sample {sample.id} shows {count} people, but PersonCrop needs exactly one: set "
                "each: person in the data set"
            )
        (name,) = sample.labels
        joints, edges = sample.labels[name][0], sample.people.edges[0]
        half_edges = self._draw_half_body(joints, generator)
        padding = self.padding if half_edges is None else HALF_BODY_PADDING
        low, high = 1 - self.scale, 1 + self.scale
        factor = min(max(1 + self.scale * _draw_normal(generator), low), high)
        turn = min(max(_draw_normal(generator), -2.0), 2.0) * self.degrees
        degrees = turn if chance(generator, self.turn_probability) else 0.0
        view = enlarge_box(edges if half_edges is None else half_edges, self.hw, padding * factor)
        matrix = view_matrix(view, self.hw, degrees=degrees)
        image = warp_image(sample.image.float(), matrix, self.hw).round().to(torch.uint8)
        joints = torch.cat([move_points(joints[:, :2], matrix), joints[:, 2:]], dim=1)
        if chance(generator, self.flip_probability):
            image, joints = image.flip(-1), mirror_joints(joints, self.hw[1], self.order)
        valid = torch.ones(self.hw, dtype=torch.bool)
        return replace(
            sample, image=image, labels={name: joints[None]}, valid={name: valid}, people=None
        )

    def _draw_half_body(
        self, joints: Float[Tensor, "j 3"], generator: Generator
    ) -> Float[Tensor, " 4"] | None:
        """Decide at random whether to show half of the body, and return the box of this half.

        The box is left, top, right and bottom in pixels. None stands for the whole body.
        """
        is_half, is_upper = chance(generator, self.half_body_probability), chance(generator, 0.5)
        labelled = joints[:, 2] > 0
        if not is_half or int(labelled.sum()) <= self.half_body_joints:
            return None
        upper = torch.arange(len(joints)) < self.upper_joints
        halves = [joints[labelled & half, :2] for half in (upper, ~upper)]
        chosen, other = halves if is_upper else halves[::-1]
        points = chosen if len(chosen) > 2 else other
        edges = torch.cat([points.amin(dim=0), points.amax(dim=0)])
        return edges if bool((edges[2:] > edges[:2]).all()) else None


def _draw_normal(generator: Generator) -> float:
    """Return a random number of the standard normal distribution."""
    return float(torch.randn((), generator=generator, dtype=torch.float64))
