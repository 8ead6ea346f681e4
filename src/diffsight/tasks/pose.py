"""Human pose, top-down: the joints of every person whose box is known.

Every person is cut out at one size, with room around the box; the method gives a heatmap per joint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from PIL import Image, ImageDraw
from torch import Tensor

from diffsight.codecs import heatmaps
from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.label_maps import (
    COCO_KEYPOINTS,
    COCO_LIMBS,
    COCO_SIGMAS,
    LEFT,
    RIGHT,
    mirrored_joints,
    side_of,
)
from diffsight.ops.affine import enlarged, inverse, mirrored, moved, view_of, warped
from diffsight.ops.oks import oks, suppressed
from diffsight.outputs import Heatmaps, Output, OutputSpec, SoftLabels
from diffsight.tasks.base import AbstractTask, LabelMaps
from diffsight.tasks.prediction import Prediction, StoredArray, to_pixels
from diffsight.types import Masks, People, Picture, Target

SIGMA_FRACTION = 1 / 128  # of a view's height, in pixels of its heatmap (mmpose: 2 for 256 px)
COLOURS = {LEFT: (60, 200, 90), RIGHT: (255, 140, 40), "": (80, 160, 255)}


@dataclass(frozen=True)
class Place:
    """Where the view of a person lies.

    Attributes:
        matrix: from the image to the view.
        edges: of the person's box, left, top, right and bottom.
        score: of the box.
        area: of the view in pixels of the image.
    """

    matrix: Float[Tensor, "2 3"]
    edges: Float[Tensor, " 4"]
    score: float
    area: float


class Pose(AbstractTask):
    """Joints of people, each in a view of its own.

    Unbiased encoding and decoding (UDP), the mean squared error of heatmaps, and suppression of
    equal poses are those of mmpose, which Meta Prompts names.

    Args:
        names: of the joints; ``left_X`` and ``right_X`` change places in a mirror image.
        sigmas: of the object keypoint similarity, one per joint.
        limbs: numbers of joints that a line joins in pictures.
        height: of a person's view in pixels.
        width: of a person's view in pixels.
        stride: pixels of a view for each pixel of its heatmaps.
        sigma_px: standard deviation of a joint's Gaussian in pixels of the heatmap; None: a 128th
            of the view's height (2 for 256 px, 3 for 384 px as in mmpose), at least 1.
        padding: the view is so many times as large as the box.
        least_joint_score: the score of a person is that of the box times the mean score of the
            joints above it.
        most_alike: of two poses with a larger similarity the better one stays.
        label: key of ``Sample.labels``.
    """

    metric_name = "mean OKS, %"
    higher_is_better = True
    has_regions = True

    def __init__(
        self,
        *,
        names: Sequence[str] = COCO_KEYPOINTS,
        sigmas: Sequence[float] = COCO_SIGMAS,
        limbs: Sequence[Sequence[int]] = COCO_LIMBS,
        height: int = 256,
        width: int = 192,
        stride: int = 4,
        sigma_px: float | None = None,
        padding: float = 1.25,
        least_joint_score: float = 0.2,
        most_alike: float = 0.9,
        label: str = "keypoints",
    ) -> None:
        super().__init__()
        if len(names) != len(sigmas) or not names:
            raise InputError(f"{len(names)} joints and {len(sigmas)} sigmas: give one for each")
        if min(height, width) < 2 * stride or height % stride or width % stride:
            raise InputError(
                f"a view of {width} x {height} px: choose multiples of the stride {stride}"
            )
        if any(not 0 <= joint < len(names) for pair in limbs for joint in pair):
            raise InputError(f"limbs: joints are numbered from 0 to {len(names) - 1}")
        self.names = tuple(names)
        self.sigmas = tuple(sigmas)
        self.limbs = tuple((a, b) for a, b in limbs)
        self.view_hw = (height, width)
        self.stride = stride
        self.sigma_px = max(1.0, height * SIGMA_FRACTION) if sigma_px is None else sigma_px
        self.padding = padding
        self.least_joint_score = least_joint_score
        self.most_alike = most_alike
        self.label = label
        self.mirror_order = mirrored_joints(self.names)

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """A heatmap for every joint."""
        return (OutputSpec("heatmaps", len(self.names), stride=self.stride),)

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the mean squared error; joints without a label or out of the view count as 0.

        Args:
            output: heatmaps of views.
            target: one person in each, in pixels of the view.
            soft_labels: not used.

        Raises:
            InputError: if the views are of another size than the task's.
        """
        output = Heatmaps.expect(output)
        height, width = target.valid.shape[-2:]
        if (height, width) != self.view_hw:
            raise InputError(
                f"images of {width} x {height} px, but the views of {self.view_hw[1]} x "
                f"{self.view_hw[0]}: add a PersonCrop with the height and width of the task"
            )
        joints = target.label[:, 0]
        points = joints[..., :2] * self._scale(output.hw).to(joints)
        truth, is_inside = heatmaps.encode(points, output.hw, self.sigma_px)
        counts = is_inside & (joints[..., 2] > 0) & _is_valid(target.valid, joints)
        squared = (output.maps.float() - truth).square().mean(dim=(2, 3))
        loss = (squared * counts).mean()
        return {"loss": loss, "heatmap": loss.detach()}

    def mirror_label(self, label: Tensor) -> Tensor:
        """Return joints of the mirrored view."""
        return mirrored(label, self.view_hw[1], self.mirror_order)

    def mirror_output(self, output: Output) -> Output:
        """Return the heatmaps of the mirrored view; left and right change places."""
        output = output.mirrored()
        return output.with_stack(output.stack[:, self.mirror_order])

    def regions(
        self, image: Float[Tensor, "3 h w"], people: People | None
    ) -> Iterator[tuple[Float[Tensor, "3 _ _"], Place]]:
        """Yield a view of every person; of the whole image where no boxes are given."""
        if people is None:
            bottom, right = image.shape[-2] - 1, image.shape[-1] - 1
            edges = torch.tensor([[0.0, 0.0, float(right), float(bottom)]])
            places = [self._place(edges[0], 1.0, padding=1.0)]
        else:
            rows = zip(people.edges.cpu(), people.scores.tolist(), strict=True)
            places = [self._place(edges, score, self.padding) for edges, score in rows]
        for place in places:
            yield warped(image, place.matrix, self.view_hw), place

    def assemble(
        self, outputs: Sequence[Output], places: Sequence[Place], hw: tuple[int, int]
    ) -> "PosePrediction":
        """Return the people of an image, best first; of two equal poses the better one."""
        joints = [
            torch.cat([moved(one[..., :2], inverse(place.matrix)), one[..., 2:]], dim=-1)
            for output, place in zip(outputs, places, strict=True)
            for one in self.to_label(output)[0].cpu()
        ]
        keypoints = torch.stack(joints) if joints else torch.zeros(0, len(self.names), 3)
        boxes = torch.tensor([place.score for place in places])
        scores = boxes * self._person_scores(keypoints)
        areas = torch.tensor([place.area for place in places])
        edges = [place.edges.float() for place in places]
        people = People(
            edges=torch.stack(edges) if edges else torch.zeros(0, 4),
            scores=scores,
            keypoints=keypoints,
            areas=areas,
            is_crowd=torch.zeros(len(places), dtype=torch.bool),
        )
        kept = suppressed(keypoints, scores, areas, self.sigmas, self.most_alike)
        return PosePrediction(people.at(kept), hw, self.names, self.limbs)

    def decode(self, output: Output) -> list["PosePrediction"]:
        """Return the one person of every view, in pixels of the view."""
        return [self._one_person(joints) for joints in self.to_label(output)]

    def truth(self, target: Target) -> list["PosePrediction"]:
        """Return the labelled people as perfect predictions; every labelled joint has score 1."""
        found = []
        for i, joints in enumerate(target.label.cpu()):
            seen = torch.cat([joints[..., :2], (joints[..., 2:] > 0).float()], dim=-1)
            people = self._people(target, i, seen)
            hw = (target.valid.shape[-2], target.valid.shape[-1])
            found.append(PosePrediction(people, hw, self.names, self.limbs))
        return found

    def to_label(self, output: Output) -> Float[Tensor, "b 1 j 3"]:
        """Return x, y and score of the joints in pixels of the views."""
        output = Heatmaps.expect(output)
        points, scores = heatmaps.decode(output.maps.float(), self.sigma_px)
        return torch.cat([points / self._scale(output.hw).to(points), scores[..., None]], -1)[
            :, None
        ]

    def measure(self, label: Tensor, target: Target) -> Float64[Tensor, "2"]:
        """Return the similarity of every labelled person with its likest pose, and their number."""
        sums = torch.zeros(2, dtype=torch.float64)
        for i, found in enumerate(label.cpu()):
            people = self._people(target, i, target.label[i].cpu()).labelled()
            sums[1] += len(people)
            if len(found):
                sums[0] += oks(found, people, self.sigmas).amax(dim=0).sum()
        return sums

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Return the mean object keypoint similarity in percent."""
        return 100 * float(sums[0] / sums[1].clamp(min=1))

    def constant(self, label: Tensor, valid: Masks) -> Float[Tensor, " d"]:
        """Return the mean position of each joint, ``2 j``, of labels in the frame of baselines."""
        return _mean_pose(label.flatten(0, -3))[:, :2].flatten()

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the mean pose, ``j 3``, in fractions of a view."""
        people = [label for label, _ in labels if len(label)]
        return {"mean pose": _mean_pose(torch.cat(people))} if people else {}

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the labelled joints of people in fractions of their views."""
        assert sample.people is not None, "data sets of joints have people"
        people = sample.people.labelled()
        joints = people.keypoints.clone()
        for one, edges in zip(joints, people.edges, strict=True):
            one[:, :2] = moved(one[:, :2], self._place(edges, 1.0, self.padding).matrix)
        joints[..., :2] /= self._last()
        return joints, sample.valid[self.label]

    def from_baseline(self, baseline: Tensor, target: Target) -> "PosePrediction":
        """Return the mean pose in the labelled box of every labelled person."""
        people = self._people(target, 0, target.label[0].cpu()).labelled()
        pose = torch.cat([baseline[:, :2] * self._last(), torch.ones(len(baseline), 1)], dim=1)
        joints = pose.repeat(len(people), 1, 1).to(people.keypoints)
        for one, edges in zip(joints, people.edges, strict=True):
            place = self._place(edges, 1.0, self.padding)
            one[:, :2] = moved(one[:, :2], inverse(place.matrix))
        hw = (target.valid.shape[-2], target.valid.shape[-1])
        return PosePrediction(replace(people, keypoints=joints), hw, self.names, self.limbs)

    def _place(self, edges: Tensor, score: float, padding: float) -> Place:
        view = enlarged(edges, self.view_hw, padding)
        area = float((view[2:] - view[:2]).prod())
        return Place(view_of(view, self.view_hw), edges, score, area)

    def _last(self) -> Float[Tensor, "2"]:
        """Return x and y of the last pixel of a view."""
        return torch.tensor([self.view_hw[1] - 1.0, self.view_hw[0] - 1.0])

    def _scale(self, hw: tuple[int, int]) -> Float[Tensor, "2"]:
        """Return pixels of a heatmap per pixel of a view: their corners lie on each other."""
        return torch.tensor([hw[1] - 1.0, hw[0] - 1.0]) / self._last()

    def _person_scores(self, joints: Float[Tensor, "p j 3"]) -> Float[Tensor, " p"]:
        """Return the mean score of the joints of every person that are above the least one."""
        counts = joints[..., 2] > self.least_joint_score
        return (joints[..., 2] * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)

    def _one_person(self, joints: Float[Tensor, "1 j 3"]) -> "PosePrediction":
        edges = torch.cat([torch.zeros(2), self._last()])[None]
        joints = joints.cpu()
        people = replace(People.of_boxes(edges, self._person_scores(joints)), keypoints=joints)
        return PosePrediction(people, self.view_hw, self.names, self.limbs)

    def _people(self, target: Target, index: int, joints: Float[Tensor, "m j 3"]) -> People:
        """Return the people of an image with these joints; of a view, the one that fills it."""
        people = target.people[index] if target.people else None
        if people is None:
            edges = torch.cat([torch.zeros(2), self._last()])[None]
            people = People.of_boxes(edges, torch.ones(1))
        return replace(people.to("cpu"), keypoints=joints)


@dataclass(frozen=True)
class PosePrediction(Prediction):
    """The people of one image.

    Attributes:
        people: best first; the third number of a joint is its score.
        image_hw: height and width of the image.
        names: of the joints.
        limbs: numbers of joints that a line joins.
    """

    people: People
    image_hw: tuple[int, int]
    names: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    kind = "pose"

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image_hw

    def to_label(self) -> Float[Tensor, "p j 3"]:
        """Return x, y and score of the joints of every person."""
        return self.people.keypoints

    def to_people(self) -> People:
        """Return the people."""
        return self.people

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``keypoints``, people x joints x (x, y, score)."""
        return {"keypoints": StoredArray(self.people.keypoints.numpy().astype(np.float32))}

    def metadata(self) -> dict[str, Any]:
        """Return the people: box, score, and pixels and score of every joint by name."""
        rows = zip(
            self.people.edges.tolist(),
            self.people.scores.tolist(),
            self.people.keypoints.tolist(),
            strict=True,
        )
        people = [
            {
                "score": round(score, 5),
                "box": [round(x, 2) for x in edges],
                "joints": {
                    name: [round(x, 2), round(y, 2), round(sure, 4)]
                    for name, (x, y, sure) in zip(self.names, joints, strict=True)
                },
            }
            for edges, score, joints in rows
        ]
        return {
            "size": list(self.hw[::-1]),
            "unit": "px, the centre of the top-left pixel is (0, 0)",
            "people": people,
        }

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return the skeletons over the image, or on black: left green, right orange."""
        pixels = torch.zeros(3, *self.hw, dtype=torch.uint8) if image is None else to_pixels(image)
        canvas = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        pen = ImageDraw.Draw(canvas)
        width = max(1, round(min(self.hw) / 120))
        for joints in self.people.keypoints.tolist():
            for a, b in self.limbs:
                if min(joints[a][2], joints[b][2]) > 0:
                    side = side_of(self.names[a], self.names[b])
                    pen.line((*joints[a][:2], *joints[b][:2]), fill=COLOURS[side], width=width)
            for name, (x, y, sure) in zip(self.names, joints, strict=True):
                if sure > 0:
                    box = (x - width, y - width, x + width, y + width)
                    pen.ellipse(box, fill=COLOURS[side_of(name)])
        return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).contiguous()

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return truth and prediction over the image, and both on black."""
        both = torch.maximum(self.draw(), other.draw() // 2)
        return self.draw(image), other.draw(image), both


def _is_valid(valid: Masks, joints: Float[Tensor, "b j 3"]) -> Bool[Tensor, "b j"]:
    """Return whether the pixel of each joint counts; outside of the view, the nearest one."""
    height, width = valid.shape[-2:]
    x, y = joints[..., 0].round().long(), joints[..., 1].round().long()
    place = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return valid.flatten(1).gather(1, place)


def _mean_pose(people: Float[Tensor, "m j 3"]) -> Float[Tensor, "j 3"]:
    """Return the mean of the labelled positions; the middle of the view where there are none."""
    seen = (people[..., 2:] > 0).to(people)
    count = seen.sum(dim=0)
    mean = (people[..., :2] * seen).sum(dim=0) / count.clamp(min=1)
    mean = torch.where(count > 0, mean, 0.5)
    return torch.cat([mean, (count > 0).to(people)], dim=-1).float()
