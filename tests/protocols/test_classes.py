"""Classes over a whole data set."""

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


def test_areas_are_summed_before_they_are_divided() -> None:
    protocol = protocols.get("classes-v1")
    metric = protocol.metric(Segmentation(list(NAMES.values())))
    known = torch.ones(1, 4, dtype=torch.bool)
    first = (prediction([[0, 0, 1, 2]]), Target(torch.tensor([[[0, 0, 0, 1]]]), known[None]))
    hidden = torch.tensor([[True, True, True, False]])
    second = (prediction([[0, 1, 1, 3]]), Target(torch.tensor([[[0, 1, 1, 3]]]), hidden[None]))
    assert protocol.measure(metric, *first)
    assert protocol.measure(metric, *second)
    # wall 3 of 4, floor 2 of 4; lamp is found and never there: 0; chair has no pixel
    expected = {
        "miou": (3 / 4 + 2 / 4 + 0) / 3,
        "macc": (3 / 4 + 2 / 3) / 2,
        "aacc": 5 / 7,
    }
    result = {name: float(value) for name, value in metric.compute().items()}
    assert result == pytest.approx(expected)
    assert not protocol.measure(metric, first[0], Target(first[1].label, ~known[None]))
    assert {name: float(value) for name, value in metric.compute().items()} == result
    ious = protocol.per_class(metric, list(NAMES.values()))
    assert ious == pytest.approx({"wall": 3 / 4, "floor": 2 / 4, "lamp": 0.0})


def test_a_protocol_refuses_other_numbers_and_predictions() -> None:
    protocol = protocols.get("ade20k-ss-v1")
    with pytest.raises(InputError, match="made for 150 classes, the model has 4"):
        protocol.metric(Segmentation(list(NAMES.values())))
    with pytest.raises(InputError, match="scores classes, and a Referring task has none"):
        protocol.metric(Referring())
    depth = DepthPrediction(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), "z")
    metric = protocol.metric(Segmentation([f"class {i}" for i in range(150)]))
    with pytest.raises(InputError, match="scores classes, not DepthPrediction"):
        protocol.measure(metric, depth, Target(torch.zeros(1, 1, 1).long(), depth.valid[None]))
    with pytest.raises(InputError, match="only protocols of depth use a scene"):
        protocols.get("ade20k-ss-v1", prompt="oracle-scene")


def test_description_says_what_was_done() -> None:
    line = protocols.get("ade20k-ms-v1").describe()
    for part in ("ade20k-ms-v1", "150 classes", "whole dataset", "without a label left out"):
        assert part in line


def test_classes_and_categories_are_those_of_the_authors_scripts() -> None:
    """Frozen figures of cityscapesscripts 2.3.0 on these labels.

    No pixel is a truck, which is predicted; a train is neither there nor predicted.
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
        right = np.isin(truth, numbers) & (rng.random((12, 16)) < 0.66)
        predicted = np.where(right, truth, predicted)
        ids = classes[torch.from_numpy(truth)]
        found = classes[torch.from_numpy(predicted)]
        metric.update(found[None, None], ids[None, None], (ids >= 0)[None])
    scores = {name: float(value) for name, value in metric.compute().items()}
    assert scores["miou"] == pytest.approx(0.4490841194014749, rel=1e-12)
    assert scores["category_miou"] == pytest.approx(0.5100564799419549, rel=1e-12)
