"""Joints of people: views, losses, suppression, pictures."""

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
from diffsight.label_maps import COCO_KEYPOINTS, mirrored_joints
from diffsight.ops.affine import moved
from diffsight.outputs import Heatmaps
from diffsight.tasks import Depth, Pose
from diffsight.types import People, Target

VIEW = (64, 48)


def task(**options: object) -> Pose:
    return Pose(height=VIEW[0], width=VIEW[1], **options)  # type: ignore[arg-type]


def joints(seed: int, *, low: float = 14.0, high: float = 34.0) -> torch.Tensor:
    """Seventeen joints that lie 3 deviations inside a view."""
    generator = torch.Generator().manual_seed(seed)
    places = low + (high - low) * torch.rand(17, 2, generator=generator)
    return torch.cat([places, torch.full((17, 1), 2.0)], dim=1)


class TestPose(TaskContract):
    size = VIEW
    is_map = False

    def build(self) -> Pose:
        return task()

    def target(self) -> Target:
        label = torch.stack([joints(1), joints(2)])[:, None]
        return Target(label, torch.ones(2, *self.size, dtype=torch.bool))

    def test_a_right_prediction_is_drawn_as_the_truth(self) -> None:
        one, target = self.build(), self.target()
        truth = one.truth(target)[0]
        first, second, both = truth.draw_with(truth, images(1, *self.size)[0])
        assert torch.equal(first, second)
        assert torch.equal(both, truth.draw())

    def test_constant_and_baselines_are_worse_than_the_truth(self) -> None:
        one, target = self.build(), self.target()
        label = target.label[:, 0] / torch.tensor([VIEW[1] - 1, VIEW[0] - 1, 1.0])
        (mean,) = one.baselines([(label, target.valid[0])]).values()
        assert mean.shape == (17, 3)
        torch.testing.assert_close(one.constant(label, target.valid), mean[:, :2].flatten())
        found = one.from_baseline(mean, Target(target.label[:1], target.valid[:1]))
        score = one.score(one.measure(found.to_label()[None], target))
        assert 0 < score < 99


def scene() -> tuple[Sample, People]:
    """A photograph with two people that are labelled and a crowd."""
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


def perfect(pose: Pose, people: People, image: torch.Tensor) -> tuple[list[Heatmaps], list[object]]:
    outputs, places = [], []
    for (view, place), truth in zip(pose.regions(image, people), people.keypoints, strict=True):
        assert view.shape == (3, *VIEW)
        points = moved(truth[:, :2], place.matrix) * pose._scale((16, 12))
        outputs.append(Heatmaps(encode(points[None], (16, 12), pose.sigma_px)[0], 4))
        places.append(place)
    return outputs, places


def test_people_come_back_to_the_pixel_where_they_were() -> None:
    sample, people = scene()
    pose = task()
    queries = sample.queries()
    assert queries is not None
    assert len(queries) == 2
    outputs, places = perfect(pose, queries, sample.image.float() / 255)
    found = pose.assemble(outputs, places, (96, 120))
    assert found.hw == (96, 120)
    order = found.people.edges[:, 0].argsort()
    error = found.people.keypoints[order, :, :2] - people.keypoints[:2, :, :2]
    assert error.abs().max() < 0.05
    target = collate([sample], "keypoints").target
    assert pose.score(pose.measure(found.to_label()[None], target)) > 99.9
    metric = protocols.get("coco-pose-v1").metric(pose)
    assert protocols.get("coco-pose-v1").measure(metric, found, target)
    assert float(metric.compute()["ap"]) == pytest.approx(1.0)


def test_detections_take_the_place_of_the_labelled_boxes() -> None:
    sample, _ = scene()
    boxes = People.of_boxes(torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([0.4]))
    queries = replace(sample, detections=boxes).queries()
    assert queries is not None
    assert queries.scores.tolist() == [pytest.approx(0.4)]
    assert collate([replace(sample, detections=boxes)], "keypoints").inputs.people == (boxes,)


def test_the_same_person_found_twice_is_one() -> None:
    sample, people = scene()
    pose = task()
    twice = people.at(torch.tensor([0, 0, 1]))
    scores = torch.tensor([0.5, 0.9, 0.7])
    twice = People(twice.edges, scores, twice.keypoints, twice.areas, twice.is_crowd)
    outputs, places = perfect(pose, twice, sample.image.float() / 255)
    found = pose.assemble(outputs, places, (96, 120)).people
    assert len(found) == 2
    assert float(found.scores[0]) > float(found.scores[1])
    assert float(found.scores[0]) == pytest.approx(0.9 * float(found.keypoints[0, :, 2].mean()))


def test_an_image_without_people_has_none() -> None:
    pose = task()
    nobody = People.of_boxes(torch.zeros(0, 4), torch.zeros(0))
    assert list(pose.regions(torch.zeros(3, 20, 30), nobody)) == []
    found = pose.assemble([], [], (20, 30))
    assert found.to_label().shape == (0, 17, 3)
    assert found.metadata()["people"] == []
    assert found.draw(torch.zeros(3, 20, 30)).shape == (3, 20, 30)
    json.dumps(found.metadata())


def test_without_boxes_the_image_shows_one_person() -> None:
    image = images(1, *VIEW)[0]
    ((view, place),) = task().regions(image, None)
    torch.testing.assert_close(view, image, rtol=0, atol=1e-4)
    assert place.edges.tolist() == [0.0, 0.0, 47.0, 63.0]


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


def test_left_and_right_change_places_in_a_mirror() -> None:
    order = mirrored_joints(COCO_KEYPOINTS)
    assert order[:5] == [0, 2, 1, 4, 3]
    assert [order[i] for i in order] == list(range(17))
    assert mirrored_joints(["tail", "left_ear", "spine"]) == [0, 1, 2]


def test_unusable_options() -> None:
    with pytest.raises(InputError, match="2 joints and 17 sigmas"):
        Pose(names=["a", "b"])
    with pytest.raises(InputError, match="multiples of the stride 4"):
        Pose(height=63)
    with pytest.raises(InputError, match="numbered from 0 to 1"):
        Pose(names=["a", "b"], sigmas=[0.1, 0.1], limbs=[(0, 2)])
    with pytest.raises(InputError, match="scores joints of people, and a Depth task has none"):
        protocols.get("pose-v1").metric(Depth())
    two = Pose(names=["a", "b"], sigmas=[0.1, 0.1], limbs=[])
    with pytest.raises(InputError, match="made for 17 joints, the model has 2: choose pose-v1"):
        protocols.get("coco-pose-v1").metric(two)
