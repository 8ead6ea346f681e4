"""VPD: parts, sizes, attention maps, prompts and gradients."""

from functools import partial

import pytest
import torch
from tests.contracts import MethodContract
from tests.support import SMALL, images, randomise_weights

from diffsight.backbones import StableDiffusion
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, ReferringDecoder, SemanticFPN
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import FPN, Merging
from diffsight.outputs import OutputSpec
from diffsight.prompts import Aggregated, ClassTokens, Sentences, TextTable
from diffsight.tasks import Depth, Referring, Segmentation
from diffsight.types import Inputs, Target

NAMES = ("kitchen", "bedroom", "office")


def build(**options) -> DenseModel:
    torch.manual_seed(0)
    method = partial(
        VPD,
        backbone=StableDiffusion(SMALL),
        prompts=TextTable(NAMES, dim=24),
        neck=partial(Merging, width=48, groups=8),
        head=partial(DeconvHead, widths=(8, 8, 8), width=12),
        **options,
    )
    return DenseModel(task=Depth(), method=method)


def test_the_numbers_of_parameters_are_those_of_the_authors_model() -> None:
    """The authors' model also contains post_quant_conv, which has 20 parameters."""
    with torch.device("meta"):
        model = DenseModel(
            task=Depth(),
            method=partial(
                VPD,
                backbone=StableDiffusion("sd15"),
                prompts=TextTable([str(i) for i in range(27)]),
                neck=Merging,
                head=DeconvHead,
            ),
        )
    method = model.method

    def count(name: str) -> int:
        return sum(p.numel() for p in method.get_submodule(name).parameters())

    assert sum(p.numel() for p in model.parameters()) == 906_391_845 - 20
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 872_228_161
    assert count("neck.level0") == 1_844_480
    assert count("neck.level1") == 3_687_040
    assert count("neck.mix") == 5_411_328
    assert count("head.deconv") + count("head.conv") == 260_864
    assert count("head.output") == 333_697


@pytest.mark.parametrize("hw", [(64, 64), (96, 160), (75, 130), (1, 1), (33, 200)])
def test_depth_has_the_size_of_the_image(hw: tuple[int, int]) -> None:
    model = build().eval()
    with torch.no_grad():
        depth = model(Inputs(torch.rand(1, 3, *hw))).maps
    assert depth.shape == (1, 1, *hw)
    assert ((depth > 0) & (depth < 10)).all()


def test_padding_is_mid_grey_and_features_are_cropped() -> None:
    """The released code pads 480 to 512 px after scaling to [-1, 1], with zeros."""
    model = build().eval()
    seen = {}
    model.method.backbone.vae.register_forward_hook(lambda *a: seen.update(image=a[1][0]))
    model.method.head.register_forward_pre_hook(lambda *a: seen.update(pyramid=a[1][0]))
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        model(Inputs(image))
    assert seen["image"].shape == (1, 3, 128, 128)
    assert seen["image"][..., 96:, :].abs().max() == 0
    assert seen["image"][..., 96:].abs().max() == 0
    torch.testing.assert_close(seen["image"][..., :96, :96], image * 2 - 1)
    assert seen["pyramid"].features[0].shape[-2:] == (3, 3)


@pytest.mark.parametrize(("maps", "extra"), [("none", (0, 0)), ("A32", (0, 1)), ("A64", (1, 1))])
def test_attention_maps_add_channels_to_their_levels(maps: str, extra: tuple[int, int]) -> None:
    model = build(attention_maps=maps).eval()
    assert model.method.neck.level0[0].in_channels == 16 + extra[0]
    assert model.method.neck.level1.in_channels == 32 + extra[1]
    with torch.no_grad():
        assert model(Inputs(torch.rand(1, 3, 64, 96))).maps.shape == (1, 1, 64, 96)


@pytest.mark.parametrize(
    ("unet_parts", "levels"),
    [(("up",), (1, 2)), (("down",), (1, 2)), (("mid",), (3,)), (("up", "down", "mid"), (1, 2, 3))],
)
def test_maps_are_appended_to_levels_of_their_size(
    unet_parts: tuple, levels: tuple[int, ...]
) -> None:
    method = build(attention_maps="A32", attention_places=unet_parts).eval().method
    seen = []
    method.neck.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        method(Inputs(torch.rand(1, 3, 64, 96)))
    assert set(seen[0].attention) == set(levels)
    for level, feature in enumerate(seen[0].features):
        assert feature.shape[1] == SMALL["unet"]["block_out_channels"][level] + (level in levels)


def test_parts_of_the_unet_without_maps_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"attention_maps='A64' with attention_places=\[\].*'none'"
    ):
        build(attention_maps="A64", attention_places=())
    plain = {**SMALL["unet"], "down_block_types": ["DownBlock2D"] * 4}
    backbone = StableDiffusion({**SMALL, "unet": plain})
    assert (backbone.map_levels(("down",)), backbone.map_levels(("up",))) == ((), (0, 1, 2))
    with pytest.raises(InputError, match=r"\['down'\]: no layer has such maps"):
        VPD(
            output=OutputSpec("values", 1),
            backbone=backbone,
            prompts=TextTable(NAMES, dim=24),
            head=DeconvHead,
            attention_maps="A32",
            attention_places=("down",),
        )


def test_a_row_does_not_depend_on_its_batch() -> None:
    model = build().eval()
    images = torch.rand(3, 3, 70, 64)
    with torch.no_grad():
        together = model(Inputs(images, ("kitchen", None, "office"))).maps
        alone = model(Inputs(images[1:2], (None,))).maps
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_the_encoder_does_not_run_on_encoded_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frozen encoder needs to run once per image only; images may have any size."""
    method = build(attention_maps="A32").method.eval()
    inputs = Inputs(torch.rand(2, 3, 70, 90))
    expected = method(inputs).maps
    encoded = method.encode(inputs)
    monkeypatch.setattr(method.backbone, "encode", pytest.fail)
    torch.testing.assert_close(method(inputs, encoded).maps, expected, rtol=0, atol=0)


def test_the_prompt_changes_the_features_and_unknown_prompts_are_refused() -> None:
    model = build().eval()
    with torch.no_grad():
        # the head is initialised with a standard deviation of 0.001, so compare before it
        features = []
        model.method.neck.register_forward_hook(lambda *a: features.append(a[2].features[0]))
        for prompt in ("kitchen", "office"):
            model(Inputs(torch.full((1, 3, 64, 64), 0.3), (prompt,)))
    assert (features[0] - features[1]).abs().max() > 1e-3
    with pytest.raises(InputError, match="unknown name 'attic'"):
        model(Inputs(torch.rand(1, 3, 64, 64), ("attic",)))


def test_gradients_reach_all_parameters_but_those_of_the_vae() -> None:
    model = build()
    target = Target(torch.rand(2, 1, 64, 64) + 1, torch.ones(2, 64, 64, dtype=torch.bool))
    model.losses(Inputs(torch.rand(2, 3, 64, 64)), target)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("backbone.vae" not in name), name


def test_a_text_table_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="vectors of 8 numbers, the backbone takes 24"):
        VPD(
            output=OutputSpec("values", 1),
            backbone=StableDiffusion(SMALL),
            prompts=TextTable(NAMES, dim=8),
            head=DeconvHead,
        )


def test_the_configuration_of_a_model_contains_its_constructor_arguments() -> None:
    config = to_config(build(attention_maps="A32"))
    method = config["init_args"]["method"]
    assert method["class_path"] == "diffsight.methods.vpd.VPD"
    assert method["init_args"]["attention_maps"] == "A32"
    assert method["init_args"]["backbone"]["init_args"]["architecture"] == SMALL
    assert method["init_args"]["head"]["init_args"] == {"widths": [8, 8, 8], "width": 12}
    assert "output" not in method["init_args"]


def test_a_missing_sentence_is_refused_only_by_prompts_that_need_one() -> None:
    method = VPD(
        output=OutputSpec("classes", 2),
        backbone=StableDiffusion(SMALL),
        prompts=Sentences(5, dim=24),
        head=partial(ReferringDecoder, width=8),
        attention_maps="A32",
    )
    assert method.requires_prompt
    for text in (None, "", "  "):
        with pytest.raises(InputError, match="give one as prompt"):
            method.check_prompt(text)
    assert not build().method.requires_prompt
    build().method.check_prompt(None)
    build().method.check_prompt("kitchen")


def test_an_explanation_has_a_map_for_every_token() -> None:
    model = build_segmentation().eval()
    with torch.no_grad():
        explanation = model.method.explain(Inputs(torch.rand(1, 3, 70, 64)))
    assert set(explanation.maps) == {"token 1", "token 2", "token 3"}
    # probabilities over the tokens
    torch.testing.assert_close(sum(explanation.maps.values()), torch.ones(70, 64))


class TestVPD(MethodContract):
    subject = VPD
    prompts = NAMES
    frozen = ("method.backbone.vae",)
    # the softmax over one token is 1: parameters of queries and keys get no gradient
    without_gradient = ("attn2.to_q", "attn2.to_k", "norm2")

    def build(self) -> DenseModel:
        return build()


def build_segmentation() -> DenseModel:
    torch.manual_seed(0)
    method = partial(
        VPD,
        backbone=StableDiffusion(SMALL),
        prompts=ClassTokens(("wall", "door", "cat"), dim=24),
        neck=partial(FPN, width=8),
        head=partial(SemanticFPN, width=8, dropout=0.0),
        attention_maps="A32",
    )
    return DenseModel(task=Segmentation(("wall", "door", "cat")), method=method)


class TestVPDSegmentation(MethodContract):
    subject = VPD
    frozen = ("method.backbone.vae.",)

    def build(self) -> DenseModel:
        return build_segmentation()


class TestVPDReferring(MethodContract):
    subject = VPD
    frozen = ("method.backbone.vae.",)

    def build(self) -> DenseModel:
        torch.manual_seed(0)
        method = partial(
            VPD,
            backbone=StableDiffusion(SMALL),
            prompts=Aggregated(5, dim=24),
            head=partial(ReferringDecoder, width=8),
            attention_maps="A32",
        )
        return DenseModel(task=Referring(), method=method)


def test_the_head_is_not_rounded_to_bfloat16_in_mixed_precision() -> None:
    """In bfloat16, neighbouring depths near 5 m are 3 cm apart, and there are few of them."""
    model = randomise_weights(build()).eval()
    inputs = Inputs(images(1, 128, 128))
    with torch.no_grad():
        exact = model(inputs).stack
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(inputs).stack
    assert len(exact.unique()) > 5000
    assert len(mixed.unique()) > 0.9 * len(exact.unique())
