"""Object keypoint similarity, and average precision against pycocotools and simple cases."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diffsight.label_maps import COCO_SIGMAS
from diffsight.metrics.keypoint_ap import FIGURES, KeypointAP
from diffsight.ops.oks import oks, suppress_similar_poses
from diffsight.types import People


def people(
    joints: torch.Tensor, *, area: float = 5000.0, scores: float = 1.0, crowd: bool = False
) -> People:
    count = len(joints)
    low, high = joints[..., :2].amin(dim=1) - 5, joints[..., :2].amax(dim=1) + 5
    return People(
        edges=torch.cat([low, high], dim=1),
        scores=torch.full((count,), scores),
        keypoints=joints,
        areas=torch.full((count,), area),
        is_crowd=torch.full((count,), crowd),
    )


def pose(seed: int, *, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    joints = 100 + 80 * torch.rand(count, 17, 3, generator=generator)
    joints[..., 2] = 2.0
    return joints


def test_similarity_is_the_mean_over_the_labelled_joints() -> None:
    truth = pose(0)
    truth[0, 3:, 2] = 0.0  # only the first three joints are labelled
    prediction = truth.clone()
    prediction[0, 0, 0] += 7.0
    prediction[0, 5:, :2] += 500.0  # changes joints without a label
    expected = (math.exp(-49 / (2 * 5000 * (2 * 0.026) ** 2)) + 2) / 3
    assert float(oks(prediction, people(truth), COCO_SIGMAS)) == pytest.approx(expected)
    truth[..., 2] = 0.0
    assert float(oks(prediction, people(truth), COCO_SIGMAS)) == 0.0


def test_the_lower_scored_of_two_similar_poses_is_suppressed() -> None:
    one, other = pose(1)[0], pose(2)[0]
    near = one.clone()
    near[:, 0] += 0.5
    poses = torch.stack([near, one, other])
    scores, areas = torch.tensor([0.6, 0.9, 0.3]), torch.full((3,), 5000.0)
    assert suppress_similar_poses(poses, scores, areas, COCO_SIGMAS, 0.9).tolist() == [1, 2]
    assert suppress_similar_poses(poses, scores, areas, COCO_SIGMAS, 1.0).tolist() == [1, 0, 2]
    assert suppress_similar_poses(poses[:0], scores[:0], areas[:0], COCO_SIGMAS, 0.9).tolist() == []


def figures(metric: KeypointAP) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def test_one_hit_one_miss_and_one_false_positive_give_the_expected_precision() -> None:
    metric = KeypointAP(COCO_SIGMAS)
    truth = pose(3, count=2)
    truth[1, :, :2] += 200
    wrong = pose(4)
    wrong[..., :2] += 600
    prediction = torch.cat([truth[:1], wrong])
    metric.update(people(prediction), people(truth))
    result = figures(metric)
    # recall reaches 0.5 at precision 1: 51 of the 101 recalls
    assert result["ap"] == pytest.approx(51 / 101)
    assert result["ar"] == pytest.approx(0.5)
    assert result["ap_large"] == -1
    assert result["ap_medium"] == pytest.approx(51 / 101)


def test_crowds_and_people_without_joints_are_ignored() -> None:
    truth, crowd, unlabelled = pose(5), pose(6), pose(7)
    crowd[..., :2] += 300
    unlabelled[..., :2] += 600
    unlabelled[..., 2] = 0.0
    rows = [people(truth), people(crowd, crowd=True), people(unlabelled)]
    columns = zip(*(vars(row).values() for row in rows), strict=True)
    everybody = People(*(torch.cat(parts) for parts in columns))
    prediction = torch.cat([truth, crowd, unlabelled])
    metric = KeypointAP(COCO_SIGMAS)
    metric.update(people(prediction), everybody)
    assert figures(metric)["ap"] == pytest.approx(1.0)
    assert figures(metric)["ar"] == pytest.approx(1.0)


def test_the_metric_is_minus_one_without_people_and_zero_without_predictions() -> None:
    metric = KeypointAP(COCO_SIGMAS)
    nobody = people(pose(0)[:0])
    metric.update(people(pose(1)), nobody)
    assert set(figures(metric).values()) == {-1.0}
    metric.update(nobody, people(pose(2)))
    metric = KeypointAP(COCO_SIGMAS)
    metric.update(nobody, people(pose(2)))
    assert set(figures(metric).values()) == {0.0}


def test_a_false_positive_in_an_image_without_people_lowers_the_precision() -> None:
    metric = KeypointAP(COCO_SIGMAS)
    metric.update(people(pose(1), scores=0.5), people(pose(1)))
    metric.update(people(pose(2), scores=0.9), people(pose(2)[:0]))
    assert figures(metric)["ap"] == pytest.approx(0.5)


def test_all_ten_metrics_agree_with_pycocotools() -> None:
    rng = np.random.default_rng(0)
    metric = KeypointAP(COCO_SIGMAS)
    images, truths, results = [], [], []
    for number in range(12):
        images.append({"id": number + 1})
        count = int(rng.integers(0, 5))
        base = rng.uniform(20, 400, (count, 1, 2)) + rng.uniform(0, 90, (count, 17, 2))
        visibility = rng.integers(0, 3, (count, 17, 1))
        joints = torch.tensor(np.concatenate([base, visibility], axis=2), dtype=torch.float32)
        truth = people(joints) if count else people(pose(0)[:0])
        areas = torch.tensor(rng.uniform(300, 30000, count), dtype=torch.float32)
        crowd = torch.tensor(rng.random(count) < 0.15)
        truth = People(truth.edges, truth.scores, truth.keypoints, areas, crowd)
        extra = pose(number, count=2)
        near = joints + torch.tensor(rng.normal(0, 4, joints.shape), dtype=torch.float32)
        guess = people(torch.cat([near, extra]))
        scores = torch.tensor(rng.random(len(guess)), dtype=torch.float32)
        guess = People(guess.edges, scores, guess.keypoints, guess.areas, guess.is_crowd)
        metric.update(guess, truth)
        for i in range(count):
            left, top, right, bottom = truth.edges[i].tolist()
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": number + 1,
                    "category_id": 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(areas[i]),
                    "iscrowd": int(crowd[i]),
                    "keypoints": joints[i].flatten().tolist(),
                    "num_keypoints": int((joints[i, :, 2] > 0).sum()),
                }
            )
        results += [
            {
                "image_id": number + 1,
                "category_id": 1,
                "keypoints": guess.keypoints[i].flatten().tolist(),
                "score": float(scores[i]),
            }
            for i in range(len(guess))
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": images,
            "annotations": truths,
            "categories": [{"id": 1, "name": "person"}],
        }
        data.createIndex()
        scorer = COCOeval(data, data.loadRes(results), "keypoints")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    expected = dict(zip(FIGURES, map(float, scorer.stats), strict=True))
    assert 0 < expected["ap"] < 1
    assert figures(metric) == pytest.approx(expected, abs=1e-9)
