"""Protocols of referring segmentation."""

import pytest
import torch

from diffsight import protocols
from diffsight.errors import InputError
from diffsight.tasks import DepthPrediction, MaskPrediction, Referring
from diffsight.types import Target


def test_only_pixels_with_label_one_belong_to_the_object() -> None:
    protocol = protocols.get("sentences-v1")
    metric = protocol.metric(Referring())
    # 2 marks overlapping parts, which do not count as the object
    label = torch.tensor([[1, 1, 0, 2]])
    mask = torch.tensor([[True, False, False, True]])
    prediction = MaskPrediction(mask, mask.float())
    assert protocol.measure(
        metric, prediction, Target(label[None], torch.ones(1, 1, 4, dtype=torch.bool))
    )
    assert float(metric.compute()["miou"]) == pytest.approx(1 / 3)
    assert protocol.uses_prompt


def test_refcoco_refuses_labels_of_another_size_and_other_predictions() -> None:
    protocol = protocols.get("refcoco+-v1")
    prediction = MaskPrediction(torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 6))
    valid = torch.ones(4, 6, dtype=torch.bool)
    metric = protocol.metric(Referring())
    with pytest.raises(InputError, match=r"512 x 512 px, these masks have 6 x 4.*size=512"):
        protocol.measure(metric, prediction, Target(torch.zeros(1, 4, 6).long(), valid[None]))
    depth = DepthPrediction(torch.ones(4, 6), valid, "z")
    with pytest.raises(InputError, match="masks of sentences, not DepthPrediction"):
        protocol.measure(metric, depth, Target(torch.zeros(1, 4, 6).long(), valid[None]))
    for part in ("refcoco+-v1", "every sentence", "512 x 512 px"):
        assert part in protocol.describe()
    assert (protocol.unit, protocols.get("rooms-v1").unit) == ("sentences", "images")
