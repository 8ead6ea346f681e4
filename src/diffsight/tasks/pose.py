"""Human pose, top-down: every person is cropped from the image, every joint has a heatmap."""

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
    compute_mirror_order,
    get_side_prefix,
)
from diffsight.ops.affine import (
    enlarge_box,
    invert_matrix,
    mirror_joints,
    move_points,
    view_matrix,
    warp_image,
)
from diffsight.ops.oks import oks, suppress_similar_poses
from diffsight.outputs import Heatmaps, Output, OutputSpec, SoftLabels
from diffsight.tasks.base import AbstractTask, LabelMaps
from diffsight.tasks.prediction import Prediction, StoredArray, to_pixels
from diffsight.types import Masks, People, Picture, Target

SIGMA_FRACTION = 1 / 128  # sigma in heatmap pixels per pixel of a view's height (mmpose)
COLOURS = {LEFT: (60, 200, 90), RIGHT: (255, 140, 40), "": (80, 160, 255)}


@dataclass(frozen=True)
class PersonView:
    """The location of a person's view (the crop that the model sees) in the image.

    Attributes:
        matrix: affine matrix from the image to the view.
        edges: left, top, right and bottom of the person's box in pixels of the image.
        score: score of the box.
        area: area of the view in square pixels of the image.
    """

    matrix: Float[Tensor, "2 3"]
    edges: Float[Tensor, " 4"]
    score: float
    area: float


class Pose(AbstractTask):
    """Joints of people; the model sees one view per person, a crop of the image.

    Unbiased coding (UDP), the loss and the suppression of similar poses are mmpose's.

    Args:
        names: names of the joints; ``left_X`` and ``right_X`` are swapped in a mirrored image.
        sigmas: constants of the object keypoint similarity, one per joint.
        limbs: pairs of joint numbers that are connected by a line in pictures.
        height: height of a view in pixels.
        width: width of a view in pixels.
        stride: view pixels per heatmap pixel.
        sigma_px: standard deviation of a joint's Gaussian in heatmap pixels. None: a 128th of the
            view's height (2 for 256 px, 3 for 384 px as in mmpose), at least 1.
        padding: ratio of the sides of the view to those of the box.
        least_joint_score: a person's score is that of the box times the mean of the joint scores
            above this value.
        most_alike: of two poses with a similarity (OKS) above this, only the better one is kept.
        label: key of ``Sample.labels``.

    Raises:
        InputError: if there is not one sigma per joint, if height or width is not a multiple of
            ``stride`` or is below two strides, or if a limb has an unknown joint.
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
        self.mirror_order = compute_mirror_order(self.names)

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """One heatmap per joint."""
        return (OutputSpec("heatmaps", len(self.names), stride=self.stride),)

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the mean squared error between predicted and target heatmaps.

        The error of a joint that is unlabelled or outside the view is set to 0 and stays in the
        mean over all joints.

        Args:
            output: heatmaps of views, which are crops around one person each.
            target: labels of one person per view, in pixels of the view.
            soft_labels: not used.

        Raises:
            InputError: if the views do not have the height and width of the task.
        """
        output = Heatmaps.expect(output)
        height, width = target.valid.shape[-2:]
        if (height, width) != self.view_hw:
            raise InputError(
                f"images of {width} x {height} px, but the task has views of {self.view_hw[1]} x "
                f"{self.view_hw[0]} px: add a PersonCrop with the height and width of the task"
            )
        joints = target.label[:, 0]
        points = joints[..., :2] * self._scale(output.hw).to(joints)
        truth, is_inside = heatmaps.encode(points, output.hw, self.sigma_px)
        counts = is_inside & (joints[..., 2] > 0) & _is_valid(target.valid, joints)
        squared = (output.maps.float() - truth).square().mean(dim=(2, 3))
        loss = (squared * counts).mean()
        return {"loss": loss, "heatmap": loss.detach()}

    def mirror_label(self, label: Tensor) -> Tensor:
        """Return the joints in the mirrored view."""
        return mirror_joints(label, self.view_hw[1], self.mirror_order)

    def mirror_output(self, output: Output) -> Output:
        """Return the heatmaps of the mirrored view; left and right joints are swapped."""
        output = output.mirrored()
        return output.with_stack(output.stack[:, self.mirror_order])

    def regions(
        self, image: Float[Tensor, "3 h w"], people: People | None
    ) -> Iterator[tuple[Float[Tensor, "3 _ _"], PersonView]]:
        """Yield the view of every person; without boxes, one view of the whole image."""
        if people is None:
            bottom, right = image.shape[-2] - 1, image.shape[-1] - 1
            edges = torch.tensor([[0.0, 0.0, float(right), float(bottom)]])
            views = [self._view(edges[0], 1.0, padding=1.0)]
        else:
            boxes = zip(people.edges.cpu(), people.scores.tolist(), strict=True)
            views = [self._view(edges, score, self.padding) for edges, score in boxes]
        for view in views:
            yield warp_image(image, view.matrix, self.view_hw), view

    def assemble(
        self, outputs: Sequence[Output], locations: Sequence[PersonView], hw: tuple[int, int]
    ) -> "PosePrediction":
        """Return the people in an image, highest score first, without duplicates."""
        joints = [
            torch.cat([move_points(pose[..., :2], invert_matrix(view.matrix)), pose[..., 2:]], -1)
            for output, view in zip(outputs, locations, strict=True)
            for pose in self.to_label(output)[0].cpu()
        ]
        keypoints = torch.stack(joints) if joints else torch.zeros(0, len(self.names), 3)
        box_scores = torch.tensor([view.score for view in locations])
        scores = box_scores * self._person_scores(keypoints)
        areas = torch.tensor([view.area for view in locations])
        edges = [view.edges.float() for view in locations]
        people = People(
            edges=torch.stack(edges) if edges else torch.zeros(0, 4),
            scores=scores,
            keypoints=keypoints,
            areas=areas,
            is_crowd=torch.zeros(len(locations), dtype=torch.bool),
        )
        kept = suppress_similar_poses(keypoints, scores, areas, self.sigmas, self.most_alike)
        return PosePrediction(people.at(kept), hw, self.names, self.limbs)

    def decode(self, output: Output) -> list["PosePrediction"]:
        """Return one prediction per view: its person, in pixels of the view."""
        return [self._one_person(joints) for joints in self.to_label(output)]

    def truth(self, target: Target) -> list["PosePrediction"]:
        """Return the labelled people as perfect predictions; every labelled joint has score 1."""
        predictions = []
        for i, joints in enumerate(target.label.cpu()):
            scored = torch.cat([joints[..., :2], (joints[..., 2:] > 0).float()], dim=-1)
            people = self._people(target, i, scored)
            hw = (target.valid.shape[-2], target.valid.shape[-1])
            predictions.append(PosePrediction(people, hw, self.names, self.limbs))
        return predictions

    def to_label(self, output: Output) -> Float[Tensor, "b 1 j 3"]:
        """Return x, y and score of every joint, in pixels of the views."""
        output = Heatmaps.expect(output)
        points, scores = heatmaps.decode(output.maps.float(), self.sigma_px)
        return torch.cat([points / self._scale(output.hw).to(points), scores[..., None]], -1)[
            :, None
        ]

    def measure(self, label: Tensor, target: Target) -> Float64[Tensor, "2"]:
        """Return the sum over people of their largest OKS with a pose, and the number of people."""
        sums = torch.zeros(2, dtype=torch.float64)
        for i, poses in enumerate(label.cpu()):
            people = self._people(target, i, target.label[i].cpu()).labelled()
            sums[1] += len(people)
            if len(poses):
                sums[0] += oks(poses, people, self.sigmas).amax(dim=0).sum()
        return sums

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Return the mean object keypoint similarity in percent."""
        return 100 * float(sums[0] / sums[1].clamp(min=1))

    def constant(self, label: Tensor, valid: Masks) -> Float[Tensor, " d"]:
        """Return the mean x and y of each joint, as fractions of a view."""
        return _mean_pose(label.flatten(0, -3))[:, :2].flatten()

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return ``mean pose``, ``j 3``; x and y are fractions of a view."""
        people = [label for label, _ in labels if len(label)]
        return {"mean pose": _mean_pose(torch.cat(people))} if people else {}

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the joints of labelled people; x and y are fractions of a person's view."""
        assert sample.people is not None, "data sets of joints have people"
        people = sample.people.labelled()
        joints = people.keypoints.clone()
        for pose, edges in zip(joints, people.edges, strict=True):
            pose[:, :2] = move_points(pose[:, :2], self._view(edges, 1.0, self.padding).matrix)
        joints[..., :2] /= self._last()
        return joints, sample.valid[self.label]

    def from_baseline(self, baseline: Tensor, target: Target) -> "PosePrediction":
        """Return the baseline, a mean pose, moved into the box of every labelled person."""
        people = self._people(target, 0, target.label[0].cpu()).labelled()
        pose = torch.cat([baseline[:, :2] * self._last(), torch.ones(len(baseline), 1)], dim=1)
        joints = pose.repeat(len(people), 1, 1).to(people.keypoints)
        for person, edges in zip(joints, people.edges, strict=True):
            view = self._view(edges, 1.0, self.padding)
            person[:, :2] = move_points(person[:, :2], invert_matrix(view.matrix))
        hw = (target.valid.shape[-2], target.valid.shape[-1])
        return PosePrediction(replace(people, keypoints=joints), hw, self.names, self.limbs)

    def _view(self, edges: Tensor, score: float, padding: float) -> PersonView:
        """Return the view of a box, which is padded and enlarged to the view's aspect ratio."""
        view_edges = enlarge_box(edges, self.view_hw, padding)
        area = float((view_edges[2:] - view_edges[:2]).prod())
        return PersonView(view_matrix(view_edges, self.view_hw), edges, score, area)

    def _last(self) -> Float[Tensor, "2"]:
        """Return x and y of the last pixel of a view."""
        return torch.tensor([self.view_hw[1] - 1.0, self.view_hw[0] - 1.0])

    def _scale(self, hw: tuple[int, int]) -> Float[Tensor, "2"]:
        """Return heatmap pixels per view pixel, for x and y; the corner pixels of both coincide."""
        return torch.tensor([hw[1] - 1.0, hw[0] - 1.0]) / self._last()

    def _person_scores(self, joints: Float[Tensor, "p j 3"]) -> Float[Tensor, " p"]:
        """Return each person's mean score of the joints above ``least_joint_score``."""
        counts = joints[..., 2] > self.least_joint_score
        return (joints[..., 2] * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)

    def _one_person(self, joints: Float[Tensor, "1 j 3"]) -> "PosePrediction":
        edges = torch.cat([torch.zeros(2), self._last()])[None]
        joints = joints.cpu()
        people = replace(People.of_boxes(edges, self._person_scores(joints)), keypoints=joints)
        return PosePrediction(people, self.view_hw, self.names, self.limbs)

    def _people(self, target: Target, index: int, joints: Float[Tensor, "m j 3"]) -> People:
        """Return the people of an image with these joints; a view is the box of one person."""
        people = target.people[index] if target.people else None
        if people is None:
            edges = torch.cat([torch.zeros(2), self._last()])[None]
            people = People.of_boxes(edges, torch.ones(1))
        return replace(people.to("cpu"), keypoints=joints)


@dataclass(frozen=True)
class PosePrediction(Prediction):
    """The predicted people in one image.

    Attributes:
        people: people, highest score first; the keypoints are x and y in pixels, and a score.
        image_hw: height and width of the image.
        names: names of the joints.
        limbs: pairs of joint numbers that are connected by a line in pictures.
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
        """Return x, y and score of every joint of every person, in pixels of the image."""
        return self.people.keypoints

    def to_people(self) -> People:
        """Return the people."""
        return self.people

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``keypoints``: people x joints x (x, y, score)."""
        return {"keypoints": StoredArray(self.people.keypoints.numpy().astype(np.float32))}

    def metadata(self) -> dict[str, Any]:
        """Return size, and score, box and joints (x and y in pixels, score) of every person."""
        columns = (self.people.edges, self.people.scores, self.people.keypoints)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        people = [
            {
                "score": round(score, 5),
                "box": [round(x, 2) for x in edges],
                "joints": {
                    name: [round(x, 2), round(y, 2), round(joint_score, 4)]
                    for name, (x, y, joint_score) in zip(self.names, joints, strict=True)
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
        """Return the skeletons over the image or on black; left is green, right is orange."""
        pixels = torch.zeros(3, *self.hw, dtype=torch.uint8) if image is None else to_pixels(image)
        canvas = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        pen = ImageDraw.Draw(canvas)
        width = max(1, round(min(self.hw) / 120))
        for joints in self.people.keypoints.tolist():
            for a, b in self.limbs:
                if min(joints[a][2], joints[b][2]) > 0:
                    side = get_side_prefix(self.names[a], self.names[b])
                    pen.line((*joints[a][:2], *joints[b][:2]), fill=COLOURS[side], width=width)
            for name, (x, y, score) in zip(self.names, joints, strict=True):
                if score > 0:
                    box = (x - width, y - width, x + width, y + width)
                    pen.ellipse(box, fill=COLOURS[get_side_prefix(name)])
        return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).contiguous()

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of truth and prediction over the image, and of both on black."""
        both = torch.maximum(self.draw(), other.draw() // 2)
        return self.draw(image), other.draw(image), both


def _is_valid(valid: Masks, joints: Float[Tensor, "b j 3"]) -> Bool[Tensor, "b j"]:
    """Return whether the pixel of each joint (or the nearest one in the view) is valid."""
    height, width = valid.shape[-2:]
    x, y = joints[..., 0].round().long(), joints[..., 1].round().long()
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return valid.flatten(1).gather(1, index)


def _mean_pose(people: Float[Tensor, "m j 3"]) -> Float[Tensor, "j 3"]:
    """Return the mean position of each joint; the middle of the view if it is never labelled."""
    is_labelled = (people[..., 2:] > 0).to(people)
    count = is_labelled.sum(dim=0)
    mean = (people[..., :2] * is_labelled).sum(dim=0) / count.clamp(min=1)
    mean = torch.where(count > 0, mean, 0.5)
    return torch.cat([mean, (count > 0).to(people)], dim=-1).float()
