"""The view of one person, augmented as in mmpose."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from diffsight.datasets.base import AbstractTransform, Sample
from diffsight.datasets.transforms import chance
from diffsight.errors import InputError
from diffsight.label_maps import COCO_KEYPOINTS, mirrored_joints
from diffsight.ops.affine import enlarged, mirrored, moved, view_of, warped

HALF_BODY_PADDING = 1.5


class PersonCrop(AbstractTransform):
    """Cut out one person at the size of a view, scaled, turned, mirrored, or only half of the body.

    The label becomes the joints of that person in pixels of the view, ``1 j 3``.

    Args:
        height: of the view in pixels.
        width: of the view in pixels.
        padding: the view is so many times as large as the box.
        scale: standard deviation of the view's factor, which is at most this far from 1.
        degrees: standard deviation of the turn, which is at most twice as large.
        turn_probability: of turning a person.
        flip_probability: of mirroring it.
        half_body_probability: of showing the upper or the lower half of the body alone, of people
            with more labelled joints than ``half_body_joints``.
        half_body_joints: see there.
        upper_joints: the first joints, which are the upper half.
        names: of the joints.
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
        self.order = mirrored_joints(names)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the view.

        Raises:
            InputError: if the sample is not one person.
        """
        if sample.people is None or len(sample.people) != 1:
            count = 0 if sample.people is None else len(sample.people)
            raise InputError(
                f"sample {sample.id} shows {count} people: PersonCrop takes one: set each: person"
            )
        (name,) = sample.labels
        joints, edges = sample.labels[name][0], sample.people.edges[0]
        half = self._half_body(joints, generator)
        padding = self.padding if half is None else HALF_BODY_PADDING
        low, high = 1 - self.scale, 1 + self.scale
        factor = min(max(1 + self.scale * _normal(generator), low), high)
        turn = min(max(_normal(generator), -2.0), 2.0) * self.degrees
        degrees = turn if chance(generator, self.turn_probability) else 0.0
        view = enlarged(edges if half is None else half, self.hw, padding * factor)
        matrix = view_of(view, self.hw, degrees=degrees)
        image = warped(sample.image.float(), matrix, self.hw).round().to(torch.uint8)
        joints = torch.cat([moved(joints[:, :2], matrix), joints[:, 2:]], dim=1)
        if chance(generator, self.flip_probability):
            image, joints = image.flip(-1), mirrored(joints, self.hw[1], self.order)
        valid = torch.ones(self.hw, dtype=torch.bool)
        return replace(
            sample, image=image, labels={name: joints[None]}, valid={name: valid}, people=None
        )

    def _half_body(
        self, joints: Float[Tensor, "j 3"], generator: Generator
    ) -> Float[Tensor, " 4"] | None:
        """Return a box around the joints of half of the body, or None for the whole one."""
        wanted, is_upper = chance(generator, self.half_body_probability), chance(generator, 0.5)
        seen = joints[:, 2] > 0
        if not wanted or int(seen.sum()) <= self.half_body_joints:
            return None
        first = torch.arange(len(joints)) < self.upper_joints
        halves = [joints[seen & half, :2] for half in (first, ~first)]
        chosen, other = halves if is_upper else halves[::-1]
        points = chosen if len(chosen) > 2 else other
        edges = torch.cat([points.amin(dim=0), points.amax(dim=0)])
        return edges if bool((edges[2:] > edges[:2]).all()) else None


def _normal(generator: Generator) -> float:
    return float(torch.randn((), generator=generator, dtype=torch.float64))
