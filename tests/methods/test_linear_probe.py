"""LinearProbe: one linear layer on the patch tokens of a CLIP tower."""

from functools import partial

import pytest
import torch
from tests.contracts import MethodContract
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffsight.backbones import BackboneSource, ClipTokens, ClipVision
from diffsight.methods import LinearProbe
from diffsight.model import DenseModel
from diffsight.tasks import Depth
from diffsight.types import Inputs

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 32,
    "intermediate_size": 32,
    "projection_dim": 8,
}
DEPTHS = torch.linspace(0.5, 4, 200)[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a small CLIP vision tower with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**SHAPE)).save_pretrained(path)
    return path


def build(folder) -> DenseModel:
    torch.manual_seed(0)
    backbone = ClipTokens(ClipVision(folder))
    method = partial(LinearProbe, backbone=backbone)
    return DenseModel(task=Depth(bins=3).fitted(DEPTHS), method=method)


class TestLinearProbe(MethodContract):
    subject = LinearProbe
    frozen = ("method.backbone.",)

    @pytest.fixture(autouse=True)
    def _with_folder(self, folder) -> None:
        self.folder = folder

    def build(self) -> DenseModel:
        return build(self.folder)


def test_only_one_layer_is_trained_and_the_value_is_the_expected_value(folder) -> None:
    model = build(folder)
    probe = model.method
    assert sum(p.numel() for p in probe.parameters() if p.requires_grad) == 16 * 3 + 3
    image = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(1))
    output = probe(Inputs(image))
    assert output.probability.shape == (2, 3, 40, 60)
    torch.testing.assert_close(output.probability.sum(dim=1), torch.ones(2, 40, 60))
    centres = model.task.codec.centres
    value = (output.probability * centres[None, :, :, None]).sum(dim=1)
    torch.testing.assert_close(output.value[:, 0], value)
    output.value.mean().backward()
    assert all(p.grad is None for p in probe.backbone.parameters())


def test_tokens_are_normalised_and_probabilities_resized(folder) -> None:
    """The tower resizes the image to a square, so a square grid of tokens covers every image."""
    probe = build(folder).method
    image = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(1))
    tokens = probe.backbone(image).features[0]
    scaled = functional.layer_norm(tokens.movedim(1, -1), (16,)).movedim(-1, 1)
    encoded = probe.encode(Inputs(image))
    torch.testing.assert_close(encoded.tokens, scaled)
    assert encoded.covered.shape == (1, 0, 40, 60)
    expected = functional.interpolate(probe.out(scaled).softmax(dim=1), (40, 60), mode="bilinear")
    torch.testing.assert_close(probe(Inputs(image)).probability, expected)


def test_a_probe_on_a_diffusion_model_uses_its_clip_tower() -> None:
    source = BackboneSource("tiny")
    model = DenseModel(
        task=Depth(bins=3).fitted(DEPTHS), method=LinearProbe.from_backbone(source, side=48)
    )
    assert isinstance(model.method.backbone, ClipTokens)
    assert model.method.backbone.side == 48
    assert set(model.method.frozen()) == {"backbone.clip"}


def test_the_probe_does_not_run_in_mixed_precision(folder) -> None:
    probe = build(folder).method
    inputs = Inputs(torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(1)))
    encoded = probe.encode(inputs)
    expected = probe(inputs, encoded).probability
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probe(inputs, encoded).probability, expected)
