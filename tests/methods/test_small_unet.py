"""SmallUNet: a U-Net on pixels that is small enough for the student of ``distil``."""

from functools import partial

import pytest
import torch
from tests.contracts import MethodContract
from tests.support import images

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.methods import SmallUNet
from diffsight.model import DenseModel
from diffsight.outputs import OutputSpec
from diffsight.tasks import AbstractTask, Depth, Segmentation, Values
from diffsight.types import Inputs, Target

DEPTHS = torch.linspace(0.5, 4, 200)[:, None]
TASKS = {
    "distribution": lambda: Depth(bins=3).fitted(DEPTHS),
    "classes": lambda: Segmentation(("wall", "door", "cat")),
    "values": lambda: Values(channels=2),
}


def build(task: AbstractTask) -> DenseModel:
    torch.manual_seed(0)
    return DenseModel(task=task, method=partial(SmallUNet, widths=(4, 6, 8)))


class TestSmallUNet(MethodContract):
    subject = SmallUNet

    def build(self) -> DenseModel:
        return build(TASKS["distribution"]())


@pytest.mark.parametrize("kind", TASKS)
def test_some_pixels_have_the_same_output_as_in_the_whole_image(kind: str) -> None:
    model = build(TASKS[kind]()).eval()
    assert model.output.kind == kind
    inputs, first = Inputs(images(2, 37, 50)), [(1, 3), (0, 2)]
    with torch.no_grad():
        whole = model(inputs).stack
        some = model.method.forward_at(inputs, first, 4, (9, 11)).stack
    for row in range(2):
        y, x = first[row]
        expected = whole[row, :, y::4, x::4][:, :9, :11]
        torch.testing.assert_close(some[row], expected, rtol=1e-5, atol=1e-6)


def test_the_default_network_has_fewer_than_a_million_parameters() -> None:
    network = SmallUNet(output=OutputSpec("classes", 50))
    count = sum(p.numel() for p in network.parameters())
    assert 500_000 < count < 1_000_000


def test_the_output_is_computed_at_a_size_smaller_than_the_coarsest_stride() -> None:
    model = DenseModel(task=TASKS["classes"](), method=SmallUNet).eval()
    with torch.no_grad():
        assert model(Inputs(images(1, 16, 17))).hw == (16, 17)


def test_only_the_size_of_a_backbone_is_used() -> None:
    assert SmallUNet.supports(BackboneSource("efficientnet-lite0@128"))
    assert not SmallUNet.supports(BackboneSource("tiny"))
    builder = SmallUNet.from_backbone(BackboneSource("efficientnet-lite0@128"), widths=(4, 8))
    assert len(builder(output=OutputSpec("classes", 2)).down) == 2


def test_a_network_of_one_level_is_refused() -> None:
    message = r"widths \[8\]: give the channels of two or more levels"
    with pytest.raises(InputError, match=message):
        SmallUNet(output=OutputSpec("classes", 2), widths=[8])


@pytest.mark.parametrize("width", [0, -3])
def test_a_level_without_channels_is_refused(width: int) -> None:
    with pytest.raises(InputError, match=rf"widths \[{width}, 4\]: .* each 1 or more"):
        SmallUNet(output=OutputSpec("classes", 2), widths=[width, 4])


@pytest.mark.parametrize("side", [16, 32])
def test_a_single_small_image_is_trained_on(side: int) -> None:
    """The coarsest level of such an image has one pixel."""
    torch.manual_seed(0)
    model = DenseModel(task=TASKS["classes"](), method=SmallUNet).train()
    target = Target(torch.randint(3, (1, side, side)), torch.ones(1, side, side, dtype=torch.bool))
    model.losses(Inputs(images(1, side, side)), target)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(value.isfinite().all() for value in model.state_dict().values())
