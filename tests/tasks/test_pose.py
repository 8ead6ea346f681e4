"""Human pose: views of people, losses, suppression of duplicates, pictures."""

import json
from dataclasses import replace

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import images

from diffsight import protocols
from diffsight.codecs.heatmaps import encode
from diffsight.datasets.base import Sample, collate
from diffsight.errors import InputError
from diffsight.label_maps import COCO_KEYPOINTS, compute_mirror_order
from diffsight.ops.affine import move_points
from diffsight.outputs import Heatmaps
from diffsight.tasks import Depth, Pose
from diffsight.types import People, Target

VIEW = (64, 48)


def task(**options: object) -> Pose:
    return Pose(height=VIEW[0], width=VIEW[1], **options)  # type: ignore[arg-type]


def joints(seed: int, *, low: float = 14.0, high: float = 34.0) -> torch.Tensor:
    """Return 17 joints in a view, 3 standard deviations of the heatmaps away from its edges."""
    generator = torch.Generator().manual_seed(seed)
    points = low + (high - low) * torch.rand(17, 2, generator=generator)
    return torch.cat([points, torch.full((17, 1), 2.0)], dim=1)


class TestPose(TaskContract):
    size = VIEW
    is_map = False

    def build(self) -> Pose:
        return task()

    def target(self) -> Target:
        label = torch.stack([joints(1), joints(2)])[:, None]
        return Target(label, torch.ones(2, *self.size, dtype=torch.bool))

    def test_a_correct_prediction_is_drawn_like_its_label(self) -> None:
        pose, target = self.build(), self.target()
        truth = pose.truth(target)[0]
        first, second, both = truth.draw_with(truth, images(1, *self.size)[0])
        assert torch.equal(first, second)
        assert torch.equal(both, truth.draw())

    def test_constant_and_baselines_are_worse_than_the_truth(self) -> None:
        pose, target = self.build(), self.target()
        label = target.label[:, 0] / torch.tensor([VIEW[1] - 1, VIEW[0] - 1, 1.0])
        (mean,) = pose.baselines([(label, target.valid[0])]).values()
        assert mean.shape == (17, 3)
        torch.testing.assert_close(pose.constant(label, target.valid), mean[:, :2].flatten())
        prediction = pose.from_baseline(mean, Target(target.label[:1], target.valid[:1]))
        score = pose.score(pose.measure(prediction.to_label()[None], target))
        assert 0 < score < 99


def scene() -> tuple[Sample, People]:
    """Return an image with two labelled people and a crowd."""
    both = torch.stack([joints(3) * torch.tensor([1.0, 2.0, 1.0]), joints(4)])
    both[1, :, :2] += torch.tensor([70.0, 20.0])
    crowd = torch.zeros(1, 17, 3)
    people = People(
        edges=torch.tensor(
            [[10.0, 20.0, 40.0, 75.0], [78.0, 28.0, 112.0, 60.0], [0.0, 0.0, 20.0, 15.0]]
        ),
        scores=torch.ones(3),
        keypoints=torch.cat([both, crowd]),
        areas=torch.tensor([900.0, 600.0, 300.0]),
        is_crowd=torch.tensor([False, False, True]),
    )
    image = (images(1, 96, 120)[0] * 255).to(torch.uint8)
    sample = Sample(
        id="7",
        image=image,
        labels={"keypoints": people.keypoints},
        valid={"keypoints": torch.ones(96, 120, dtype=torch.bool)},
        people=people,
    )
    return sample, people


def perfect_outputs(
    pose: Pose, people: People, image: torch.Tensor
) -> tuple[list[Heatmaps], list[object]]:
    """Return perfect heatmaps for the view of each person, and the locations of the views."""
    outputs, locations = [], []
    for (view, location), truth in zip(pose.regions(image, people), people.keypoints, strict=True):
        assert view.shape == (3, *VIEW)
        points = move_points(truth[:, :2], location.matrix) * pose._scale((16, 12))
        outputs.append(Heatmaps(encode(points[None], (16, 12), pose.sigma_px)[0], 4))
        locations.append(location)
    return outputs, locations


def test_joints_are_mapped_back_to_their_pixels_in_the_image() -> None:
    sample, people = scene()
    pose = task()
    queries = sample.queries()
    assert queries is not None
    assert len(queries) == 2
    outputs, locations = perfect_outputs(pose, queries, sample.image.float() / 255)
    prediction = pose.assemble(outputs, locations, (96, 120))
    assert prediction.hw == (96, 120)
    order = prediction.people.edges[:, 0].argsort()
    error = prediction.people.keypoints[order, :, :2] - people.keypoints[:2, :, :2]
    assert error.abs().max() < 0.05
    target = collate([sample], "keypoints").target
    assert pose.score(pose.measure(prediction.to_label()[None], target)) > 99.9
    metric = protocols.get("coco-pose-v1").metric(pose)
    assert protocols.get("coco-pose-v1").measure(metric, prediction, target)
    assert float(metric.compute()["ap"]) == pytest.approx(1.0)


def test_detections_replace_the_labelled_boxes() -> None:
    sample, _ = scene()
    boxes = People.of_boxes(torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([0.4]))
    queries = replace(sample, detections=boxes).queries()
    assert queries is not None
    assert queries.scores.tolist() == [pytest.approx(0.4)]
    assert collate([replace(sample, detections=boxes)], "keypoints").inputs.people == (boxes,)


def test_a_person_with_two_boxes_is_predicted_once() -> None:
    sample, people = scene()
    pose = task()
    twice = people.at(torch.tensor([0, 0, 1]))
    scores = torch.tensor([0.5, 0.9, 0.7])
    twice = People(twice.edges, scores, twice.keypoints, twice.areas, twice.is_crowd)
    outputs, locations = perfect_outputs(pose, twice, sample.image.float() / 255)
    kept = pose.assemble(outputs, locations, (96, 120)).people
    assert len(kept) == 2
    assert float(kept.scores[0]) > float(kept.scores[1])
    assert float(kept.scores[0]) == pytest.approx(0.9 * float(kept.keypoints[0, :, 2].mean()))


@pytest.mark.parametrize("least", [0.2, 0.5])
def test_the_score_of_a_person_is_box_score_times_mean_confident_joint_score(
    least: float,
) -> None:
    sample, people = scene()
    pose = task(**({} if least == 0.2 else {"least_joint_score": least}))
    boxes = replace(people.at(torch.tensor([0, 1])), scores=torch.tensor([0.8, 0.5]))
    outputs, locations = perfect_outputs(pose, boxes, sample.image.float() / 255)
    # peak heights of the first person; those of the second person are below the threshold
    heights = torch.tensor([0.95, 0.7, 0.45, 0.3, 0.25] + [0.1] * 12)
    outputs[0] = Heatmaps(outputs[0].maps * heights[:, None, None], 4)
    outputs[1] = Heatmaps(outputs[1].maps * 0.15, 4)
    first, second = pose.assemble(outputs, locations, (96, 120)).people.scores.tolist()
    joint_scores = pose.to_label(outputs[0])[0, 0, :, 2].tolist()
    counted = [score for score in joint_scores if score > least]
    assert len(counted) == (5 if least == 0.2 else 2)
    assert first == pytest.approx(0.8 * sum(counted) / len(counted))
    assert first != pytest.approx(0.8 * sum(joint_scores) / 17, rel=0.2)
    assert second == 0.0


def test_an_image_without_boxes_of_people_has_an_empty_prediction() -> None:
    pose = task()
    nobody = People.of_boxes(torch.zeros(0, 4), torch.zeros(0))
    assert list(pose.regions(torch.zeros(3, 20, 30), nobody)) == []
    prediction = pose.assemble([], [], (20, 30))
    assert prediction.to_label().shape == (0, 17, 3)
    assert prediction.metadata()["people"] == []
    assert prediction.draw(torch.zeros(3, 20, 30)).shape == (3, 20, 30)
    json.dumps(prediction.metadata())


def test_without_boxes_the_whole_image_is_one_view() -> None:
    image = images(1, *VIEW)[0]
    ((view, location),) = task().regions(image, None)
    torch.testing.assert_close(view, image, rtol=0, atol=1e-4)
    assert location.edges.tolist() == [0.0, 0.0, 47.0, 63.0]


def test_joints_without_a_label_do_not_count_in_the_loss() -> None:
    pose = task()
    label = joints(1)[None, None]
    valid = torch.ones(1, *VIEW, dtype=torch.bool)
    output = Heatmaps(torch.rand(1, 17, 16, 12, generator=torch.Generator().manual_seed(0)), 4)
    whole = pose.loss(output, Target(label, valid))["loss"]
    part = label.clone()
    part[..., 5:, 2] = 0.0
    part[..., 5:, :2] = torch.nan_to_num(part[..., 5:, :2]) * 0 - 3000.0
    some = pose.loss(output, Target(part, valid))["loss"]
    assert 0 < float(some) < float(whole)
    outside = label + torch.tensor([500.0, 0.0, 0.0])
    assert float(pose.loss(output, Target(outside, valid))["loss"]) == 0


def test_views_of_another_size_are_refused() -> None:
    target = Target(joints(1)[None, None], torch.ones(1, 32, 32, dtype=torch.bool))
    with pytest.raises(InputError, match=r"images of 32 x 32 px, .* add a PersonCrop"):
        task().loss(Heatmaps(torch.zeros(1, 17, 8, 8), 4), target)


def test_mirroring_swaps_left_and_right_joints() -> None:
    order = compute_mirror_order(COCO_KEYPOINTS)
    assert order[:5] == [0, 2, 1, 4, 3]
    assert [order[i] for i in order] == list(range(17))
    assert compute_mirror_order(["tail", "left_ear", "spine"]) == [0, 1, 2]


def test_unusable_options_are_refused() -> None:
    with pytest.raises(InputError, match="2 joints and 17 sigmas"):
        Pose(names=["a", "b"])
    with pytest.raises(InputError, match="multiples of the stride 4"):
        Pose(height=63)
    with pytest.raises(InputError, match="numbered from 0 to 1"):
        Pose(names=["a", "b"], sigmas=[0.1, 0.1], limbs=[(0, 2)])
    with pytest.raises(InputError, match="scores joints of people, but a Depth task has none"):
        protocols.get("pose-v1").metric(Depth())
    two = Pose(names=["a", "b"], sigmas=[0.1, 0.1], limbs=[])
    with pytest.raises(InputError, match="made for 17 joints, the model has 2: choose pose-v1"):
        protocols.get("coco-pose-v1").metric(two)
