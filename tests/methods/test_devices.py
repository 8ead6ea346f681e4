"""Training steps on the meta device, which refuses to mix tensors of two devices."""

import pytest
import torch
from tests.support import SMALL

from diffsight.backbones import ConceptRequest, StableDiffusion
from diffsight.methods import AbstractMethod, Conditioned, FeatureHead, FewShot, LinearProbe
from diffsight.outputs import OutputSpec
from diffsight.prompts import Unprompted
from diffsight.tasks import Values
from diffsight.types import Draws, Encoded, Inputs, Target


def build_few_shot(backbone: StableDiffusion, output: OutputSpec) -> FewShot:
    return FewShot(output=output, backbone=backbone, codebook=1)


def build_slime(backbone: StableDiffusion, output: OutputSpec) -> FewShot:
    maps = ConceptRequest("slime", transposed=False)
    return FewShot(output=output, backbone=backbone, codebook=0, maps=maps)


def build_feature_head(backbone: StableDiffusion, output: OutputSpec) -> FeatureHead:
    conditioned = Conditioned(backbone, Unprompted(2, dim=backbone.context_dim))
    return FeatureHead(output=output, backbone=conditioned)


def build_linear_probe(backbone: StableDiffusion, output: OutputSpec) -> LinearProbe:
    conditioned = Conditioned(backbone, Unprompted(2, dim=backbone.context_dim))
    return LinearProbe(output=output, backbone=conditioned)


@pytest.mark.parametrize(
    "build", [build_few_shot, build_slime, build_feature_head, build_linear_probe]
)
def test_a_training_step_creates_no_tensor_on_the_cpu(build) -> None:
    task = Values(bins=6, spacing="linear", unit="m").fitted(torch.rand(500, 1))
    task = task.to("meta")
    with torch.device("meta"):
        method: AbstractMethod = build(StableDiffusion(SMALL, trainable=()), task.outputs[0])
    method = method.train()
    inputs = Inputs(torch.rand(2, 3, 64, 96)).to("meta")
    encoded = method.encode(inputs)
    assert isinstance(encoded.to("meta"), Encoded)
    output = method(inputs, encoded, draws=Draws((1, 2)))
    target = Target(torch.rand(2, 1, 64, 96), torch.ones(2, 64, 96).bool())
    loss = task.loss(output, target.to("meta"))["loss"]
    loss.backward()
    trainable = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.is_meta for p in trainable)
    with pytest.raises(RuntimeError, match="device"):  # the label is still on the CPU
        task.loss(output, target)
