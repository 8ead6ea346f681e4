"""Protocols of depth: published crops, masks and fingerprints."""

import dataclasses
import math

import pytest
import torch

from diffsight import protocols
from diffsight.errors import InputError
from diffsight.metrics.depth import NAMES, DepthMetrics
from diffsight.outputs import Values
from diffsight.protocols.depth import FractionCrop, PixelCrop
from diffsight.tasks import Depth
from diffsight.types import Target


def ones(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    depth_m = torch.ones(1, height, width)
    return depth_m, depth_m > 0


def test_the_eigen_crop_has_the_published_rows_and_columns() -> None:
    mask = protocols.get("nyu-eigen-v1").mask(*ones(480, 640))
    assert int(mask.sum()) == 426 * 560 == 238_560
    assert mask[0, 45:471, 41:601].all()


def test_the_garg_crop_has_the_published_pixels_of_the_kb_crop() -> None:
    mask = protocols.get("kitti-garg-v1").mask(*ones(352, 1216))
    assert int(mask.sum()) == (349 - 143) * (1172 - 43)
    assert mask[0, 143:349, 43:1172].all()


def test_the_garg_crop_scales_with_the_size_of_the_map() -> None:
    mask = protocols.get("kitti-garg-v1").mask(*ones(176, 608))
    rows, columns = mask[0].any(1).nonzero().flatten(), mask[0].any(0).nonzero().flatten()
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (71, 174, 21, 586)


def test_a_crop_in_pixels_refuses_maps_of_another_size() -> None:
    with pytest.raises(
        InputError, match=r"480 x 640 .* these have 240 x 320: evaluate at the size"
    ):
        protocols.get("nyu-eigen-v1").mask(*ones(240, 320))


def test_depth_of_another_type_is_not_scored() -> None:
    protocol, label = protocols.get("rooms-v1"), torch.ones(1, 1, 4, 4)
    target = Target(label, label[:, 0] > 0)
    (prediction,) = Depth(depth_type="euclidean").decode(Values(label))
    with pytest.raises(InputError, match=r"scores depth of type z, the model predicts euclidean"):
        protocol.measure(protocol.metric(Depth()), prediction, target)


def test_only_true_depths_strictly_within_the_range_count() -> None:
    depth_m = torch.tensor([[[1e-3, 1.1e-3, 9.99, 10.0, 5.0, math.nan, math.inf]]])
    valid = torch.tensor([[[True, True, True, True, False, True, True]]])
    mask = protocols.get("rooms-v1").mask(depth_m, valid)
    assert mask.tolist() == [[[False, True, True, False, False, False, False]]]


def test_prepare_changes_only_predictions_that_are_not_positive_and_finite() -> None:
    protocol = protocols.get("rooms-v1")
    raw = torch.tensor([[[math.nan, 0.0, -2.0, -math.inf, math.inf, 1e-5, 50.0]]])
    expected = torch.tensor([[[1e-3, 1e-3, 1e-3, 1e-3, 10.0, 1e-5, 50.0]]])
    assert torch.equal(protocol.prepare(raw), expected)


def test_prepare_and_mask_give_finite_errors_for_any_prediction() -> None:
    protocol = protocols.get("rooms-v1")
    target, valid = torch.full((1, 2, 3), 2.0), torch.ones(1, 2, 3, dtype=torch.bool)
    prediction = torch.tensor([[[math.nan, 0.0, -1.0], [math.inf, 2.0, 3.0]]])
    metric = protocol.metric(Depth())
    assert isinstance(metric, DepthMetrics)
    metric.update(protocol.prepare(prediction), target, protocol.mask(target, valid))
    assert all(math.isfinite(float(metric.compute()[name])) for name in NAMES)


CHANGES = {
    "name": "nyu-eigen-v2",
    "split": "another split",
    "crop": FractionCrop((0.0, 1.0), (0.0, 1.0)),
    "min_depth_m": 1e-2,
    "max_depth_m": 80.0,
    "plan": "one pass",
    "depth_type": "euclidean",
    "resolution": "model",
    "prompt": "oracle-scene",
    "averaging": "pixel",
}


def test_every_field_changes_the_fingerprint() -> None:
    protocol = protocols.get("nyu-eigen-v1")
    assert set(CHANGES) == {field.name for field in dataclasses.fields(protocol)}
    fingerprints = {protocol.fingerprint}
    for field, value in CHANGES.items():
        changed = dataclasses.replace(protocol)
        object.__setattr__(changed, field, value)
        fingerprints.add(changed.fingerprint)
    crop = PixelCrop(rows=(45, 471), columns=(41, 602), of_hw=(480, 640))
    fingerprints.add(dataclasses.replace(protocol, crop=crop).fingerprint)
    assert len(fingerprints) == len(CHANGES) + 2


def test_fingerprints_of_published_protocols_never_change() -> None:
    fingerprints = {name: protocols.get(name).fingerprint[:12] for name in protocols.names()}
    assert len(set(fingerprints.values())) == len(fingerprints)
    assert fingerprints == {
        "nyu-eigen-v1": "4cee12bee8e2",
        "kitti-garg-v1": "ac6ab57c67c3",
        "sun-rgbd-v1": "c5befb60e946",
        "rooms-v1": "00c579b4c965",
        "ade20k-ss-v1": "2a41afe35a0e",
        "ade20k-ms-v1": "672c6528c866",
        "ade20k-ms7-v1": "0bf7f3c83bb1",
        "cityscapes-ss-v1": "20c3814fd2fd",
        "cityscapes-ms-v1": "c215d3d9883f",
        "classes-v1": "973bdc618356",
        "refcoco-v1": "f36e28e7cdfe",
        "refcoco+-v1": "a12960881cae",
        "refcocog-v1": "b415fbd2cfeb",
        "sentences-v1": "5e09c036bd4a",
        "coco-pose-v1": "a89097b81d02",
        "pose-v1": "048c64c4cc50",
        "nuscenes-map-v1": "be7a83bd24d5",
        "maps-v1": "ba204849621a",
    }


def test_images_that_differ_from_the_official_split_change_name_and_fingerprint() -> None:
    nyu, kitti = protocols.get("nyu-eigen-v1"), protocols.get("kitti-garg-v1")
    assert nyu.applied_to(654, {(480, 640)}) is nyu
    assert kitti.applied_to(652, {(352, 1216)}) is kitti
    few = nyu.applied_to(3, {(480, 640)})
    assert few.name == "part of nyu-eigen-v1 (3 of 654 images)"
    whole = kitti.applied_to(652, {(375, 1242), (352, 1216)})
    assert whole.name == "part of kitti-garg-v1 (images of 375 x 1242, not 352 x 1216)"
    for official, other in ((nyu, few), (kitti, whole)):
        assert other.fingerprint != official.fingerprint
        assert other.as_dict()["name"] in other.describe()
    anything = protocols.get("rooms-v1")
    assert anything.applied_to(3, {(8, 8)}) is anything


def test_the_description_is_one_line_with_crop_range_prompt_and_averaging() -> None:
    protocol = protocols.get("nyu-eigen-v1", prompt="oracle-scene")
    line = protocol.describe()
    assert "\n" not in line
    for part in ("nyu-eigen-v1", "45:471", "41:601", "10 m", "oracle-scene", "per image"):
        assert part in line
    assert protocol.as_dict()["fingerprint"] == protocol.fingerprint
    assert protocol.as_dict()["crop"]["rows"] == (45, 471)


def test_the_error_for_an_unknown_name_suggests_similar_names() -> None:
    with pytest.raises(InputError, match="did you mean 'nyu-eigen-v1'") as caught:
        protocols.get("nyu_eigen")
    assert sum(repr(name) in str(caught.value) for name in protocols.names()) == 1
    assert "`diffsight show protocols`" in str(caught.value)
    with pytest.raises(InputError, match="unknown protocol 'xyz': see `diffsight show protocols`"):
        protocols.get("xyz")
