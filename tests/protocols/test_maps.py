"""Protocols of bird's-eye-view maps."""

import pytest
import torch

from diffsight import protocols
from diffsight.errors import InputError
from diffsight.tasks import BEV, Depth
from diffsight.types import Target


def test_a_perfect_map_scores_one_and_a_full_map_the_fraction_of_its_cells() -> None:
    task, protocol = BEV(("road", "crossing"), cells=4), protocols.get("maps-v1")
    label = torch.zeros(1, 2, 4, 4)
    label[0, 0, :2], label[0, 1, 3, 3] = 1, 1
    target = Target(label, torch.ones(1, 4, 4, dtype=torch.bool))
    metric = protocol.metric(task)
    (truth,) = task.truth(target)
    assert protocol.measure(metric, truth, target)
    assert float(metric.compute()["miou"]) == 1
    assert protocol.per_class(metric, task.class_names) == {"road": 1.0, "crossing": 1.0}
    everywhere = task.from_baseline(torch.ones(2, 1, 1), target)
    metric = protocol.metric(task)
    protocol.measure(metric, everywhere, target)
    assert float(metric.compute()["miou"]) == pytest.approx((8 / 16 + 1 / 16) / 2)


def test_a_protocol_refuses_tasks_without_maps_and_other_numbers_of_cells() -> None:
    with pytest.raises(InputError, match="scores maps around a vehicle, but a Depth task has none"):
        protocols.get("maps-v1").metric(Depth())
    with pytest.raises(InputError, match=r"made for 200 cells .* the model has 50: choose maps-v1"):
        protocols.get("nuscenes-map-v1").metric(BEV(cells=50))
    assert protocols.get("nuscenes-map-v1").metric(BEV())
    part = protocols.get("nuscenes-map-v1").applied_to(3, {(200, 200)})
    assert part.name == "part of nuscenes-map-v1 (3 of 6019 images)"
