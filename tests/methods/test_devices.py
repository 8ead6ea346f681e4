"""As on a GPU: another device than the CPU, here the one without data, where mixing is an error."""

import pytest
import torch
from tests.support import SMALL

from diffsight.backbones import ConceptRequest, StableDiffusion
from diffsight.methods import AbstractMethod, Conditioned, FeatureHead, FewShot, LinearProbe
from diffsight.outputs import OutputSpec
from diffsight.prompts import Unprompted
from diffsight.tasks import Values
from diffsight.types import Draws, Encoded, Inputs, Target


def concepts(backbone: StableDiffusion, output: OutputSpec) -> FewShot:
    return FewShot(output=output, backbone=backbone, codebook=1)


def slime(backbone: StableDiffusion, output: OutputSpec) -> FewShot:
    maps = ConceptRequest("slime", transposed=False)
    return FewShot(output=output, backbone=backbone, codebook=0, maps=maps)


def features(backbone: StableDiffusion, output: OutputSpec) -> FeatureHead:
    conditioned = Conditioned(backbone, Unprompted(2, dim=backbone.context_dim))
    return FeatureHead(output=output, backbone=conditioned)


def probe(backbone: StableDiffusion, output: OutputSpec) -> LinearProbe:
    conditioned = Conditioned(backbone, Unprompted(2, dim=backbone.context_dim))
    return LinearProbe(output=output, backbone=conditioned)


@pytest.mark.parametrize("build", [concepts, slime, features, probe])
def test_a_training_step_on_another_device(build) -> None:
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
    learning = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.is_meta for p in learning)
    with pytest.raises(RuntimeError, match="device"):  # it would be noticed
        task.loss(output, target)
