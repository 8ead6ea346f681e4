"""Protocols of semantic segmentation."""

import numpy as np
import pytest
import torch

from diffsight import protocols
from diffsight.errors import InputError
from diffsight.label_maps import CITYSCAPES_IDS
from diffsight.tasks import ClassPrediction, DepthPrediction, Referring, Segmentation
from diffsight.types import Target

NAMES = {0: "wall", 1: "floor", 2: "lamp", 3: "chair"}


def prediction(ids: list[list[int]]) -> ClassPrediction:
    tensor = torch.tensor(ids)
    return ClassPrediction(tensor, torch.ones(tensor.shape), NAMES, {})


def test_areas_are_summed_over_all_images_before_they_are_divided() -> None:
    protocol = protocols.get("classes-v1")
    metric = protocol.metric(Segmentation(list(NAMES.values())))
    all_valid = torch.ones(1, 4, dtype=torch.bool)
    first = (prediction([[0, 0, 1, 2]]), Target(torch.tensor([[[0, 0, 0, 1]]]), all_valid[None]))
    some_valid = torch.tensor([[True, True, True, False]])
    second = (prediction([[0, 1, 1, 3]]), Target(torch.tensor([[[0, 1, 1, 3]]]), some_valid[None]))
    assert protocol.measure(metric, *first)
    assert protocol.measure(metric, *second)
    # IoU of wall 3 / 4, of floor 2 / 4, of lamp 0 (predicted, but absent); chair has no valid pixel
    expected = {
        "miou": (3 / 4 + 2 / 4 + 0) / 3,
        "macc": (3 / 4 + 2 / 3) / 2,
        "aacc": 5 / 7,
    }
    result = {name: float(value) for name, value in metric.compute().items()}
    assert result == pytest.approx(expected)
    assert not protocol.measure(metric, first[0], Target(first[1].label, ~all_valid[None]))
    assert {name: float(value) for name, value in metric.compute().items()} == result
    ious = protocol.per_class(metric, list(NAMES.values()))
    assert ious == pytest.approx({"wall": 3 / 4, "floor": 2 / 4, "lamp": 0.0})


def test_a_protocol_refuses_other_numbers_of_classes_and_other_predictions() -> None:
    protocol = protocols.get("ade20k-ss-v1")
    with pytest.raises(InputError, match="made for 150 classes, the model has 4"):
        protocol.metric(Segmentation(list(NAMES.values())))
    with pytest.raises(InputError, match="scores classes, but a Referring task has none"):
        protocol.metric(Referring())
    depth = DepthPrediction(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), "z")
    metric = protocol.metric(Segmentation([f"class {i}" for i in range(150)]))
    with pytest.raises(InputError, match="scores classes, not DepthPrediction"):
        protocol.measure(metric, depth, Target(torch.zeros(1, 1, 1).long(), depth.valid[None]))
    with pytest.raises(InputError, match="only protocols of depth use a scene"):
        protocols.get("ade20k-ss-v1", prompt="oracle-scene")


def test_the_description_names_classes_averaging_and_missing_labels() -> None:
    line = protocols.get("ade20k-ms-v1").describe()
    for part in ("ade20k-ms-v1", "150 classes", "whole dataset", "without a label left out"):
        assert part in line


def test_the_multi_scale_protocols_of_ade20k_have_the_scales_of_their_papers() -> None:
    """VPD averages five scales, Meta Prompts seven (table 2 of its paper)."""
    vpd, meta_prompts = (protocols.get(f"ade20k-{name}-v1") for name in ("ms", "ms7"))
    assert "at 1, 1.125, 1.25, 1.375 and 1.5 times the size, each with its mirror" in vpd.plan
    scales = "0.5, 0.75, 1, 1.25, 1.5, 1.75 and 2 times the size, each with its mirror image"
    assert f"as ade20k-ss-v1 at {scales}" in meta_prompts.plan
    for protocol in (vpd, meta_prompts):
        assert protocol.applied_to(2000, {(512, 683), (600, 400)}) is protocol
        assert protocol.applied_to(7, set()).name == f"part of {protocol.name} (7 of 2000 images)"
        assert protocol.classes == 150
        with pytest.raises(InputError, match="made for 150 classes, the model has 4"):
            protocol.metric(Segmentation(list(NAMES.values())))


@pytest.mark.parametrize("name", ["cityscapes-ss-v1", "cityscapes-ms-v1"])
def test_a_part_of_cityscapes_or_smaller_images_change_the_name(name: str) -> None:
    protocol = protocols.get(name)
    assert protocol.applied_to(500, {(1024, 2048)}) is protocol
    part = protocol.applied_to(8, {(512, 1024)}).name
    assert part == f"part of {name} (8 of 500 images, images of 512 x 1024, not 1024 x 2048)"


def test_scores_of_classes_and_categories_agree_with_cityscapesscripts() -> None:
    """The expected figures are those of cityscapesscripts 2.3.0 on the same labels.

    Trucks are predicted but never occur. Trains neither occur nor are predicted.
    """
    rng = np.random.default_rng(24)
    numbers = np.array(CITYSCAPES_IDS)
    classes = torch.full((34,), -1)
    classes[torch.tensor(CITYSCAPES_IDS)] = torch.arange(19)
    protocol = protocols.get("cityscapes-ss-v1")
    metric = protocol.metric(Segmentation("cityscapes", ids=CITYSCAPES_IDS))
    for _ in range(3):
        truth = rng.integers(0, 34, (12, 16))
        truth[np.isin(truth, [31, 27])] = 7
        predicted = numbers[rng.integers(0, 19, (12, 16))]
        predicted[predicted == 31] = 26
        is_correct = np.isin(truth, numbers) & (rng.random((12, 16)) < 0.66)
        predicted = np.where(is_correct, truth, predicted)
        target_ids = classes[torch.from_numpy(truth)]
        predicted_ids = classes[torch.from_numpy(predicted)]
        valid = (target_ids >= 0)[None]
        metric.update(predicted_ids[None, None], target_ids[None, None], valid)
    scores = {name: float(value) for name, value in metric.compute().items()}
    assert scores["miou"] == pytest.approx(0.4490841194014749, rel=1e-12)
    assert scores["category_miou"] == pytest.approx(0.5100564799419549, rel=1e-12)
