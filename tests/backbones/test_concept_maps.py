"""Concept maps: the layers of the paper, their combination and their gradients."""

import pytest
import torch
from tests.support import noise

from diffsight.backbones import StableDiffusion
from diffsight.backbones.concept_maps import ConceptRecorder, ConceptRequest, resize_contiguous
from diffsight.errors import InputError

ARCHITECTURE = {
    "unet": {
        "block_out_channels": (16, 16, 32, 32),
        "norm_num_groups": 8,
        "cross_attention_dim": 12,
        "attention_head_dim": (1, 2, 2, 2),
    },
    "vae": {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 8},
}
GRIDS = ((4, 6), (4, 6), (4, 6), (8, 12), (8, 12), (16, 24), (16, 24), (16, 24))
# attention layers in the order in which they run; diffusers lists the middle block last
ORDER = (
    *(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
    "mid_block.attentions.0",
    *(f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3)),
)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return StableDiffusion(ARCHITECTURE, trainable=())


def run(backbone, request, context, batch=2):
    recorder = ConceptRecorder(request)
    steps = torch.tensor([5, 200][:batch])
    taps = backbone.features(noise(batch, 4, 16, 24), context, steps, recorder)
    return recorder.close(), taps


def compute_attention(backbone, context):
    """Compute self- and cross-attention of every layer from the inputs of its module."""
    attention_of = {}

    def record(name, kind):
        def hook(attention, inputs, keywords, output):
            x = inputs[0]
            other = keywords.get("encoder_hidden_states")
            query, key = attention.to_q(x), attention.to_k(x if other is None else other)
            q, k = (
                t.unflatten(-1, (attention.heads, -1)).transpose(1, 2).double()
                for t in (query, key)
            )
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)
            attention_of[name, kind] = weights

        return hook

    modules = dict(backbone.unet.named_modules())
    hooks = [
        modules[f"{name}.transformer_blocks.0.attn{kind}"].register_forward_hook(
            record(name, kind), with_kwargs=True
        )
        for name in ORDER
        for kind in (1, 2)
    ]
    run(backbone, ConceptRequest(), context)
    for hook in hooks:
        hook.remove()
    return attention_of


@torch.no_grad()
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("combine", ["per_layer", "slime"])
def test_maps_equal_those_of_the_definition(backbone, combine, self_attention, transposed):
    context = noise(2, 5, 12, seed=3) * 3
    attention = compute_attention(backbone, context)
    names = dict(enumerate(ORDER, start=1))
    cross = {i: attention[names[i], 2].mT for i in (8, 9, 10, 11, 12, 14, 15, 16)}
    own = {i: attention[names[i], 1] for i in cross}
    if not transposed:
        own = {i: weights.mT for i, weights in own.items()}
    if combine == "per_layer":
        maps = [
            (m @ own[i] if self_attention else m).unflatten(2, hw)
            for (i, m), hw in zip(cross.items(), GRIDS, strict=True)
        ]
    else:
        five = [cross[i].unflatten(2, hw) for i, hw in zip(range(8, 13), GRIDS, strict=False)]
        mean = torch.stack([resize_contiguous(m, (16, 24)) for m in five]).mean(dim=0).flatten(2)
        maps = [(mean @ own[i]).unflatten(2, (16, 24)) for i in (14, 15, 16)]
        maps = maps if self_attention else five
    request = ConceptRequest(combine, self_attention=self_attention, transposed=transposed)
    result, _ = run(backbone, request, context)
    assert len(result) == len(maps)
    for ours, theirs in zip(result, maps, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-4)


def test_only_the_concepts_get_a_gradient(backbone):
    context = noise(2, 5, 12).requires_grad_()
    maps, _ = run(backbone, ConceptRequest(), context)
    sum(m[:, 0].square().sum() for m in maps).backward()
    assert float(context.grad.abs().min(dim=-1).values.min()) > 0
    assert all(p.grad is None for p in backbone.parameters())


def test_detached_features_change_the_gradient_but_not_the_maps(backbone):
    context = noise(2, 5, 12).requires_grad_()
    gradients = []
    for detach in (False, True):
        maps, _ = run(backbone, ConceptRequest(detach=detach), context)
        total = sum(m[:, 0].square().sum() for m in maps)
        gradients.append((total.detach(), *torch.autograd.grad(total, context)))
    (loss, full), (same, detached) = gradients
    assert torch.equal(loss, same)
    assert float(detached.abs().max()) > 0
    assert not torch.allclose(full, detached)


def test_gradient_checkpointing_gives_the_same_gradient(backbone):
    gradients = []
    for checkpointing in (False, True):
        backbone.gradient_checkpointing = checkpointing
        for combine in ("per_layer", "slime"):
            context = noise(2, 5, 12).requires_grad_()
            maps, _ = run(backbone, ConceptRequest(combine), context)
            sum(m[:, 0].square().sum() for m in maps).backward()
            gradients.append(context.grad)
    backbone.gradient_checkpointing = False
    torch.testing.assert_close(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[1], gradients[3])


@torch.no_grad()
def test_layers_after_the_last_required_one_do_not_run(backbone):
    names = []
    modules = dict(backbone.unet.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda *_, name=name: names.append(name))
        for name in ORDER
    ]
    run(backbone, ConceptRequest("slime", self_attention=False), noise(2, 5, 12))
    for hook in hooks:
        hook.remove()
    assert names == list(ORDER[:12])


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(backbone):
    context = noise(2, 5, 12)
    both, _ = run(backbone, ConceptRequest(), context)
    alone, _ = run(backbone, ConceptRequest(), context[:1], batch=1)
    for a, b in zip(both, alone, strict=True):
        torch.testing.assert_close(a[:1], b, atol=1e-6, rtol=1e-5)


def test_a_unet_with_fewer_layers_is_refused():
    small = ARCHITECTURE["unet"] | {"layers_per_block": 1}
    backbone = StableDiffusion({"unet": small, "vae": ARCHITECTURE["vae"]}, trainable=())
    with pytest.raises(InputError, match=r"10 layers with attention, .* need 16"):
        run(backbone, ConceptRequest(), noise(2, 5, 12))
