"""Meta Prompts: passes, time embeddings, resized skip connections, rearrangement."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.contracts import MethodContract
from tests.support import SMALL, images, randomise_weights
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, HeatmapHead, SemanticFPN, UPerHead
from diffsight.methods import VPD, AbstractMethod, MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import Fused, Merging, PerLevel
from diffsight.ops.padding import MID_GREY, pad_to_multiple
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Depth, Pose, Segmentation
from diffsight.types import Inputs, Target

TASK = Segmentation(("wall", "door", "cat"))


def build_backbone(**options: Any) -> StableDiffusion:
    torch.manual_seed(0)
    arguments = {"conv_out": True, "time_embedding": False, "resize_skips": True, **options}
    return StableDiffusion(SMALL, **arguments)


def build_segmentation(sets: int = 1, **options: Any) -> DenseModel:
    arguments = {
        "backbone": build_backbone(),
        "prompts": [LearnedTokens(4, dim=24) for _ in range(sets)],
        "rearrange": PerLevel,
        "head": partial(UPerHead, width=8),
        **options,
    }
    return DenseModel(task=TASK, method=partial(MetaPrompts, **arguments))


def build_depth(**options: Any) -> DenseModel:
    arguments = {
        "backbone": build_backbone(),
        "prompts": [LearnedTokens(5, dim=24, adapter=True) for _ in range(3)],
        "rearrange": partial(Fused, width=8),
        "head": partial(DeconvHead, widths=(8, 8, 8), width=8),
        "enlarge_by": 1,
        **options,
    }
    return DenseModel(task=Depth(), method=partial(MetaPrompts, **arguments))


class ConstantEmbedding(nn.Module):
    """A time embedding that returns one vector for every timestep."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector = vector

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.vector.expand(len(sample), -1)


@torch.no_grad()
def test_every_pass_runs_the_unet_of_diffusers_on_the_output_of_the_pass_before() -> None:
    model = randomise_weights(build_segmentation()).eval()
    method, inputs = model.method, Inputs(images(2, 64, 128))
    latent = method.encode(inputs).latent
    reference = build_backbone(time_embedding=True).unet
    reference.load_state_dict(method.backbone.unet.state_dict(), strict=False)
    prompts, outputs = method.prompts[0](inputs), []
    method.backbone.sample, sample = (
        lambda x: outputs.append(sample(x)) or outputs[-1],
        (method.backbone.sample),
    )
    method.refine(inputs, latent)
    assert len(outputs) == 2
    for number, ours in enumerate(outputs):
        reference.time_embedding = ConstantEmbedding(method.times[number])
        theirs = reference(latent, torch.zeros(2), prompts).sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        latent = theirs


@torch.no_grad()
def test_skip_connections_of_another_size_are_resized() -> None:
    """A latent of 42 x 64 has levels of height 42, 21, 11, 6; upsampling gives 12, 24, 48."""
    torch.manual_seed(1)
    part = randomise_weights(build_backbone()).eval()
    unet: Any = part.unet
    latent, text = torch.randn(1, 4, 42, 64), torch.randn(1, 4, 24)
    embedding = torch.randn(1, part.embedding_dim)
    x = unet.conv_in(latent)
    skips = [x]
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            x = resnet(x, embedding)
            if attention is not None:
                x = attention(x, encoder_hidden_states=text, return_dict=False)[0]
            skips.append(x)
        if block.downsamplers is not None:
            x = block.downsamplers[0](x)
            skips.append(x)
    x = unet.mid_block.resnets[0](x, embedding)
    x = unet.mid_block.attentions[0](x, encoder_hidden_states=text, return_dict=False)[0]
    x = unet.mid_block.resnets[1](x, embedding)
    expected = []
    for number, block in enumerate(unet.up_blocks):
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for j, (resnet, attention) in enumerate(zip(block.resnets, attentions, strict=True)):
            skip = functional.interpolate(
                skips.pop(), x.shape[-2:], mode="bilinear", align_corners=False
            )
            x = resnet(torch.cat([x, skip], dim=1), embedding)
            if attention is not None:
                x = attention(x, encoder_hidden_states=text, return_dict=False)[0]
            if j == (2 if number == 3 else 1):
                expected.append(x)
        if block.upsamplers is not None:
            x = block.upsamplers[0](x)
    features = part.features(latent, text, torch.zeros(1, dtype=torch.long), embedding=embedding)
    assert [one.shape[-2] for one in features] == [48, 24, 12, 6]
    for ours, theirs in zip(features, reversed(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def compute_gradients(model: DenseModel) -> dict[str, Tensor | None]:
    """Return the gradients of a random training step, by the name of the parameter."""
    inputs, target = (
        Inputs(images(2, 64, 128)),
        Target(torch.randint(3, (2, 64, 128)), torch.ones(2, 64, 128, dtype=torch.bool)),
    )
    model.train().losses(inputs, target)["loss"].backward()
    return {name: p.grad for name, p in model.method.named_parameters()}


def test_gradients_reach_the_time_embeddings_and_prompts_of_every_pass() -> None:
    gradients = compute_gradients(build_segmentation(sets=3))
    for name in (*(f"times.{i}" for i in range(3)), *(f"prompts.{i}.rows" for i in range(3))):
        gradient = gradients[name]
        assert gradient is not None, name
        assert bool((gradient.abs().amax(dim=1) > 0).all()), name


def test_truncated_backpropagation_covers_only_the_last_pass() -> None:
    gradients = compute_gradients(build_segmentation(sets=3, backpropagation="truncated"))
    assert gradients["times.0"] is None
    assert gradients["prompts.1.rows"] is None
    assert gradients["times.2"] is not None
    # the input of the last pass comes from the output head of the UNet
    assert gradients["backbone.unet.conv_out.weight"] is not None


def test_ablated_models_have_outputs_at_the_size_of_the_image() -> None:
    for options in (
        {"passes": 1, "backbone": build_backbone(conv_out=False)},
        {"time": "fixed", "backbone": build_backbone(time_embedding=True)},
        {"rearrange": None},
    ):
        model = build_segmentation(**options).eval()
        with torch.no_grad():
            assert model(Inputs(images(1, 50, 70))).hw == (50, 70)
    fixed = build_segmentation(time="fixed", backbone=build_backbone(time_embedding=True))
    assert fixed.method.times is None


@torch.no_grad()
def test_the_depth_model_enlarges_images_and_resizes_features_back() -> None:
    model = randomise_weights(build_depth()).eval()
    sizes = []
    model.method.backbone.vae.register_forward_hook(lambda *a: sizes.append(a[2].shape[-2:]))
    model.method.head.register_forward_pre_hook(
        lambda *a: sizes.append(a[1][0].features[0].shape[-2:])
    )
    for hw, latent, small in (((480, 480), 64, 60), ((352, 352), 48, 44), ((100, 70), 16, 12)):
        sizes.clear()
        assert model(Inputs(images(1, *hw))).hw == hw
        assert (sizes[0][0], sizes[1][0]) == (latent, small)
    model.method.enlarge_by = 2
    sizes.clear()
    model(Inputs(images(1, 352, 352)))
    assert (tuple(sizes[0]), tuple(sizes[1])) == ((56, 56), (44, 44))


def build_vpd() -> DenseModel:
    method = partial(
        VPD,
        backbone=build_backbone(time_embedding=True),
        prompts=LearnedTokens(4, dim=24),
        neck=partial(Merging, width=16),
        head=partial(DeconvHead, widths=(8, 8, 8), width=8),
    )
    return DenseModel(task=Depth(), method=method)


@pytest.mark.parametrize(
    "build",
    [
        partial(build_depth, enlarge_by=None),
        partial(build_segmentation, head=partial(SemanticFPN, width=8)),
        build_vpd,
    ],
)
@torch.no_grad()
def test_a_head_that_doubles_features_reads_whole_blocks_of_the_image(
    build: Callable[[], DenseModel],
) -> None:
    model = randomise_weights(build()).eval()
    image = images(1, 72, 88)
    whole = model(Inputs(pad_to_multiple(image, 64, MID_GREY)))
    cropped = whole.stack[..., :72, :88]
    torch.testing.assert_close(model(Inputs(image)).stack, cropped, rtol=1e-3, atol=1e-3)


def test_explanation_has_a_map_for_every_prompt() -> None:
    for model in (build_segmentation(), build_depth()):
        with torch.no_grad():
            explanation = model.eval().method.explain(Inputs(images(1, 40, 70)))
        count = model.method.prompts[0].num_tokens
        assert list(explanation.maps) == [f"prompt {i + 1}" for i in range(count)]
        assert all(one.shape == (40, 70) for one in explanation.maps.values())
        total = sum(explanation.maps.values())
        torch.testing.assert_close(total, torch.ones(40, 70), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_explanation_has_the_product_of_the_features_with_every_prompt() -> None:
    for model, size in ((build_segmentation(), (40, 72)), (build_depth(), (64, 128))):
        method, image = randomise_weights(model).eval().method, images(1, 40, 70)
        products: list[Tensor] = []
        method.rearrange.register_forward_hook(lambda *a, seen=products: seen.extend(a[2].features))
        explanation = method.explain(Inputs(image))
        levels = products[len(products) // 2 :]  # those of the pass that records the attention
        expected = torch.zeros(levels[0].shape[1], 40, 70)
        for level in levels:
            maps = functional.interpolate(level, size, mode="bilinear")
            if method.enlarge_by is None:
                maps = maps[..., :40, :70]
            else:  # features of the enlarged image are resized to the original size
                maps = functional.interpolate(maps, (40, 70), mode="bilinear", antialias=True)
            for total, one in zip(expected, maps[0], strict=True):
                total += (one - one.min()) / (one.max() - one.min())
        expected = torch.stack([(x - x.min()) / (x.max() - x.min()) for x in expected])
        names = [f"prompt {i + 1}" for i in range(len(expected))]
        assert list(explanation.rearranged) == list(explanation.maps) == names
        assert len(names) == method.prompts[0].num_tokens
        torch.testing.assert_close(torch.stack([*explanation.rearranged.values()]), expected)


def test_without_rearrangement_products_only_attention_is_explained() -> None:
    features = partial(Fused, width=8, multiplies=False)
    for model in (build_segmentation(rearrange=None), build_depth(rearrange=features)):
        with torch.no_grad():
            explanation = model.eval().method.explain(Inputs(images(1, 40, 70)))
        assert explanation.rearranged == {}
        assert len(explanation.maps) in (4, 5)


@pytest.mark.parametrize(("passes", "sets"), [(0, 1), (3, 2)])
def test_prompt_sets_that_do_not_fit_the_passes_are_refused(passes: int, sets: int) -> None:
    with pytest.raises(InputError, match=f"{passes} passes and {sets} sets of prompts: give one"):
        build_segmentation(sets=sets, passes=passes)


def test_backbones_without_a_required_part_are_refused() -> None:
    with pytest.raises(InputError, match="3 passes need the UNet's output head: set conv_out"):
        build_segmentation(backbone=build_backbone(conv_out=False))
    with pytest.raises(InputError, match="time='fixed' needs the UNet's time embedding: set time"):
        build_segmentation(time="fixed")


class TestMetaPromptsForClasses(MethodContract):
    subject = MetaPrompts
    frozen = ("method.backbone.vae.",)
    without_gradient = ("head.auxiliary",)

    def build(self) -> DenseModel:
        return build_segmentation(passes=2, head=partial(UPerHead, width=8, auxiliary_level=None))


class TestMetaPromptsForDepth(MethodContract):
    subject = MetaPrompts
    frozen = ("method.backbone.vae.",)

    def build(self) -> DenseModel:
        return build_depth()


class TestMetaPromptsForPose(MethodContract):
    subject = MetaPrompts
    frozen = ("method.backbone.vae.",)
    row_dtype = torch.float64  # in 32 bit, two passes amplify rounding errors beyond the tolerance

    def build(self) -> DenseModel:
        head = partial(HeatmapHead, width=8)
        parts = {"prompts": [LearnedTokens(4, dim=24)], "rearrange": Fused, "head": head}
        method = partial(MetaPrompts, backbone=build_backbone(), passes=2, **parts)
        return DenseModel(task=Pose(height=64, width=128), method=method)


@pytest.mark.parametrize("method", [MetaPrompts, VPD])
def test_from_backbone_supports_heatmaps(method: type[AbstractMethod]) -> None:
    task = Pose(height=64, width=64)
    model = DenseModel(task=task, method=method.from_backbone(BackboneSource("tiny"))).eval()
    with torch.no_grad():
        output = model(Inputs(images(1, 64, 64)))
    assert output.stack.shape == (1, 17, 16, 16)
