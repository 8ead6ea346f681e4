"""The protocol that scores a task with its own metric."""

import pytest
import torch

from diffsight.protocols import TaskProtocol
from diffsight.tasks import Depth, Segmentation
from diffsight.types import Target


def test_images_without_a_labelled_pixel_do_not_count() -> None:
    task = Depth()
    protocol = TaskProtocol.of(task)
    metric = protocol.metric(task)
    label = torch.tensor([[[1.0, 2.0, 3.0]]])
    valid = torch.tensor([[True, True, False]])
    (prediction,) = task.truth(Target(label[None] + 1, torch.ones(1, 1, 3, dtype=torch.bool)))
    assert protocol.measure(metric, prediction, Target(label[None], valid[None]))
    assert not protocol.measure(
        metric, prediction, Target(label[None], torch.zeros_like(valid)[None])
    )
    assert float(metric.compute()["RMSE, m"]) == pytest.approx(1)


def test_the_fingerprint_depends_on_the_metric_of_the_task() -> None:
    depth, classes = TaskProtocol.of(Depth()), TaskProtocol.of(Segmentation(["a", "b"]))
    assert depth == TaskProtocol.of(Depth(max_depth_m=80.0))
    assert depth.fingerprint != classes.fingerprint
    assert depth.as_dict()["metric_name"] == "RMSE, m"
    assert not depth.uses_prompt
