"""EVP: refined pyramid and text conditions; tests/parity compares it with the authors' code."""

from functools import partial

import torch
from tests.contracts import MethodContract
from tests.support import SMALL

from diffsight.backbones import StableDiffusion
from diffsight.heads import MetricBins, ReferringDecoder
from diffsight.methods import EVP
from diffsight.model import DenseModel
from diffsight.necks import IMAFR, Merging
from diffsight.prompts import Aggregated, LearnedSentences
from diffsight.tasks import Depth, Referring
from diffsight.types import Inputs, Target

TOWER = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 10,
}


def build(**options) -> DenseModel:
    torch.manual_seed(0)
    parts = {
        "backbone": StableDiffusion(SMALL, latent_scale=0.2, trainable=("unet", "vae")),
        "prompts": Aggregated(6, dim=24),
        "refine": partial(IMAFR, groups=1),
        "neck": partial(Merging, width=48, groups=8),
        "head": partial(MetricBins, widths=(8, 8), width=12, attractors=(3, 2, 1), bins=8),
    }
    return DenseModel(task=Depth(), method=partial(EVP, **parts | options))


def test_the_latent_is_divided_and_the_pyramid_refined() -> None:
    model = build()
    captured = {}
    model.method.backbone.vae.register_forward_hook(lambda *a: captured.update(latent=a[2]))
    conv_in = model.method.backbone.unet.conv_in
    conv_in.register_forward_pre_hook(lambda *a: captured.update(x=a[1][0]))
    model.method.refine.register_forward_hook(lambda *a: captured.update(refined=a[2]))
    with torch.no_grad():
        model(Inputs(torch.rand(1, 3, 64, 64)))
    torch.testing.assert_close(captured["x"], captured["latent"] * 0.2)
    channels = [f.shape[1] for f in captured["refined"].features]
    plain = model.method.backbone.channels
    assert channels == [plain[0], plain[1] + 6, plain[2] + 6, plain[3]]


def test_a_text_tower_is_trained_with_the_model() -> None:
    torch.manual_seed(0)
    model = DenseModel(
        task=Referring(),
        method=partial(
            EVP,
            backbone=StableDiffusion(SMALL, trainable=("unet", "vae")),
            prompts=LearnedSentences(6, architecture=TOWER),
            refine=partial(IMAFR, groups=1),
            head=partial(ReferringDecoder, width=8),
        ),
    )
    tokens = torch.tensor([[1, 5, 7, 2, 2, 2], [1, 6, 7, 2, 2, 2]])
    image = torch.rand(1, 3, 64, 128).expand(2, -1, -1, -1)
    target = Target(torch.ones(2, 64, 128, dtype=torch.int64), torch.ones(2, 64, 128).bool())
    model.losses(Inputs(image, text=tokens), target)["loss"].backward()
    embedding = model.method.prompts.tower.embeddings.token_embedding.weight.grad
    assert embedding[5].any()
    assert not embedding[9].any()
    with torch.no_grad():
        first, second = model.eval()(Inputs(image, text=tokens)).maps
    assert not torch.equal(first, second)  # other sentences give another output


class TestEVP(MethodContract):
    subject = EVP

    def build(self) -> DenseModel:
        return build()
