"""As on a GPU: another device than the CPU, here the one without data, where mixing is an error."""

from contextlib import nullcontext

import pytest
import torch
from tests.backbones.conftest import SMALL

from diffsight.backbones import ConceptRequest, StableDiffusion
from diffsight.codecs import ScalarBins
from diffsight.heads import Codebook
from diffsight.methods import FeatureHead, FewShot
from diffsight.methods.base import AbstractCachedMethod
from diffsight.tasks import Scalars
from diffsight.types import Draws, Inputs, Target


def concepts(backbone: StableDiffusion, centres: torch.Tensor) -> FewShot:
    codebook = Codebook(centres, torch.ones(1), size=1)
    return FewShot(num_outputs=len(centres), backbone=backbone, codebook=codebook)


def slime(backbone: StableDiffusion, centres: torch.Tensor) -> FewShot:
    maps = ConceptRequest("slime", transposed=False)
    return FewShot(num_outputs=len(centres), backbone=backbone, maps=maps)


def features(backbone: StableDiffusion, centres: torch.Tensor) -> FeatureHead:
    context = torch.zeros(1, 2, backbone.context_dim)
    return FeatureHead(
        num_outputs=len(centres), backbone=backbone, context=context, centres=centres
    )


@pytest.mark.parametrize("build", [concepts, slime, features])
def test_a_training_step_on_another_device(build, monkeypatch) -> None:
    # "meta" has no mixed precision to be turned off
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    edges = torch.linspace(0, 1, 13)
    task = Scalars(ScalarBins(edges[::2], edges[1::2]), spread=torch.ones(1), unit="m")
    assert task.codec.centres is not None
    with torch.device("meta"):
        backbone = StableDiffusion(SMALL, trainable=())
        method: AbstractCachedMethod = build(backbone, task.codec.centres.to("meta"))
    inputs = method.train().encode(Inputs(torch.rand(2, 3, 64, 96).to("meta")))
    raw = method(inputs, draws=Draws((1, 2)))
    target = Target(torch.rand(2, 1, 64, 96), torch.ones(2, 64, 96).bool()).to("meta")
    loss = task.loss(raw, target)["loss"]
    loss.backward()
    learning = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.is_meta for p in learning)
    with pytest.raises(RuntimeError, match="device"):  # it would be noticed
        task.loss(raw, Target(torch.rand(2, 1, 64, 96), torch.ones(2, 64, 96).bool()))
