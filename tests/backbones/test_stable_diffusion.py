"""Stable Diffusion: features, attention maps, latents, weights and refused files."""

import argparse
import copy
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tests.contracts import BackboneContract
from tests.support import SMALL
from tests.support_weights import write_original_file

from diffsight.backbones import StableDiffusion
from diffsight.backbones.attention_maps import MapRequest
from diffsight.errors import InputError
from diffsight.methods.parts import run_prompted_unet
from diffsight.types import Draws, Pyramid


def run(
    backbone: StableDiffusion,
    image: torch.Tensor,
    context: torch.Tensor,
    maps: MapRequest | None = None,
    timestep: int = 1,
) -> Pyramid:
    """Return the pyramid of one pass on the latent of an image, without noise."""
    return run_prompted_unet(
        backbone,
        backbone.encode(image),
        context,
        timestep=timestep,
        maps=maps or MapRequest(()),
        valid_hw=(image.shape[-2], image.shape[-1]),
    )


def count_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def real_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**{"in_channels": 4, **_unet_config()})


def _unet_config() -> dict:
    from diffsight.backbones.architectures import resolve

    return resolve(SMALL)["unet"]


@pytest.fixture
def folder(tmp_path: Path, real_unet: UNet2DConditionModel) -> Path:
    real_unet.save_pretrained(tmp_path / "unet")
    widths = tuple(SMALL["vae"]["block_out_channels"])
    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
    ).save_pretrained(tmp_path / "vae")
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "expected"), [("sd15", 859_520_964), ("sd21", 865_910_724)]
)
def test_the_number_of_parameters_is_that_of_the_release(architecture: str, expected: int) -> None:
    with torch.device("meta"):
        whole = StableDiffusion(architecture, conv_out=True)
        trunk = StableDiffusion(architecture)
    assert count_parameters(whole.unet) == expected
    assert expected - count_parameters(trunk.unet) == 12_164
    assert count_parameters(trunk.vae.encoder) == 34_163_592
    assert count_parameters(trunk.vae.quant_conv) == 72


def test_features_have_the_declared_channels_and_strides(small: StableDiffusion) -> None:
    pyramid = run(small, torch.rand(2, 3, 64, 192), torch.randn(2, 3, 24))
    for feature, channels, stride in zip(
        pyramid.features, small.channels, small.strides, strict=True
    ):
        assert feature.shape == (2, channels, 64 // stride, 192 // stride)
    assert small.strides == (8, 16, 32, 64)


def test_features_equal_those_inside_the_unet_of_diffusers(
    folder: Path, real_unet: UNet2DConditionModel
) -> None:
    """Features come from the second layer of up-blocks 0 to 2 and the last of up-block 3."""
    ours = StableDiffusion(SMALL, weights=folder).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    image, context = torch.rand(2, 3, 64, 128), torch.randn(2, 4, 24)
    expected: dict[int, torch.Tensor] = {}
    up = real_unet.up_blocks
    modules = [up[3].attentions[2], up[2].attentions[1], up[1].attentions[1], up[0].resnets[1]]
    for level, module in enumerate(modules):
        module.register_forward_hook(
            lambda *a, level=level: expected.update(
                {level: a[2] if torch.is_tensor(a[2]) else a[2][0]}
            )
        )
    with torch.no_grad():
        latent = vae.encode(image * 2 - 1).latent_dist.mode()
        real_unet(latent, 7, context)
        pyramid = run(ours, image, context, timestep=7)
    for level, feature in enumerate(pyramid.features):
        torch.testing.assert_close(feature, expected[level], rtol=1e-4, atol=1e-5)


def test_maps_are_averaged_over_heads_and_chosen_layers(small: StableDiffusion) -> None:
    """Compare with attention that is computed from captured queries and keys."""
    unet = small.unet
    layers = [unet.down_blocks[1].attentions[j] for j in (0, 1)]
    layers += [unet.up_blocks[2].attentions[j] for j in (0, 1, 2)]
    captured = []
    for layer in layers:
        attention = layer.transformer_blocks[0].attn2
        attention.to_q.register_forward_hook(lambda *a: captured.append([a[2]]))
        attention.to_k.register_forward_hook(lambda *a: captured[-1].append(a[2]))
    pyramid = run(small, torch.rand(2, 3, 64, 192), torch.randn(2, 5, 24), MapRequest((1, 2)))
    expected = []
    for query, key in captured:
        q, k = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (query, key))
        expected.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).mean(1))
    mean = torch.stack(expected).mean(0).mT.unflatten(-1, (4, 12))
    assert set(pyramid.attention) == {1, 2}
    torch.testing.assert_close(pyramid.attention[1], mean)
    torch.testing.assert_close(pyramid.attention[1].sum(1), torch.ones(2, 4, 12))


def test_maps_of_one_token_are_ones_and_queries_get_no_gradient(small: StableDiffusion) -> None:
    request = MapRequest((0, 1, 2, 3), ("down", "mid", "up"), detach=False)
    pyramid = run(small, torch.rand(1, 3, 64, 64), torch.randn(1, 1, 24), request)
    for maps in pyramid.attention.values():
        torch.testing.assert_close(maps, torch.ones_like(maps))
    sum(feature.square().mean() for feature in pyramid.features).backward()
    attention = small.unet.up_blocks[2].attentions[0].transformer_blocks[0].attn2
    assert attention.to_q.weight.grad.abs().max() == 0
    assert attention.to_v.weight.grad.abs().max() > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_pass_through_maps_only_without_detach(
    small: StableDiffusion, checkpointing: bool
) -> None:
    small.gradient_checkpointing = checkpointing
    context = torch.randn(1, 3, 24, requires_grad=True)
    image = torch.rand(1, 3, 64, 64)
    detached = run(small, image, context, MapRequest((1,))).attention[1]
    assert not detached.requires_grad
    attached = run(small, image, context, MapRequest((1,), detach=False)).attention[1]
    torch.testing.assert_close(attached, detached)
    attached.square().sum().backward()
    assert context.grad.abs().max() > 0


def test_gradient_checkpointing_changes_no_gradient(small: StableDiffusion) -> None:
    other = copy.deepcopy(small)
    other.gradient_checkpointing = True
    image, context = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 24)
    for model in (small, other):
        pyramid = run(model, image, context, MapRequest((1, 2)))
        sum(f.square().mean() for f in (*pyramid.features, *pyramid.attention.values())).backward()
    for (name, a), (_, b) in zip(small.named_parameters(), other.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_only_trainable_parts_require_gradients(small: StableDiffusion) -> None:
    assert not any(p.requires_grad for p in small.vae.parameters())
    assert small.encode(torch.rand(1, 3, 64, 64)).grad_fn is None
    trained_vae = StableDiffusion(SMALL, trainable=("vae",))
    assert not any(p.requires_grad for p in trained_vae.unet.parameters())
    assert trained_vae.encode(torch.rand(1, 3, 64, 64)).requires_grad


def test_latents_are_the_scaled_mode_or_a_sample(small: StableDiffusion) -> None:
    image = torch.rand(3, 3, 64, 64)
    mode = small.encode(image)
    scaled = copy.deepcopy(small)
    scaled.latent_scale = 0.5
    torch.testing.assert_close(scaled.encode(image), mode * 0.5)
    sampling = copy.deepcopy(small)
    sampling.latent = "sample"
    with pytest.raises(InputError, match="needs draws"):
        sampling.encode(image)
    together = sampling.encode(image, draws=Draws((5, 6, 7)))
    alone = sampling.encode(image[1:2], draws=Draws((6,)))
    torch.testing.assert_close(together[1:2], alone)
    assert (together - mode).abs().max() > 0.01


def test_sides_that_are_not_multiples_of_64_are_refused(small: StableDiffusion) -> None:
    with pytest.raises(InputError, match=r"100 x 64 px.*multiples of 64.*pad"):
        run(small, torch.rand(1, 3, 64, 100), torch.randn(1, 1, 24))


def test_attention_maps_keep_32_bits_under_autocast(small: StableDiffusion) -> None:
    image, context = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 24)
    exact = run(small, image, context, MapRequest((1,)))
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(small, image, context, MapRequest((1,)))
    assert rough.features[0].dtype == torch.bfloat16
    assert rough.attention[1].dtype == torch.float32
    torch.testing.assert_close(rough.features[0].float(), exact.features[0], rtol=0.1, atol=0.1)


def test_one_original_file_gives_the_same_weights_as_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    state = write_original_file(tmp_path / "original.safetensors", folder)
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "original.ckpt")
    expected = StableDiffusion(SMALL, weights=folder).state_dict()
    for name in ("original.safetensors", "original.ckpt"):
        loaded = StableDiffusion(SMALL, weights=tmp_path / name).state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected), name


def test_checkpoints_with_other_objects_than_tensors_are_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint may also hold Lightning callbacks, NumPy numbers and argparse settings."""
    lightning = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": lightning})
    for name in (lightning, lightning.rpartition(".")[0], "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[lightning], "ModelCheckpoint", callback, raising=False)
    container = {
        "state_dict": write_original_file(tmp_path / "original.safetensors", folder),
        "callbacks": {callback: {"best_model_score": np.float64(0.5)}},
        "args": argparse.Namespace(lr=5e-5),
    }
    paths = tmp_path / "zipped.ckpt", tmp_path / "old.ckpt"
    torch.save(container, paths[0])
    torch.save(container, paths[1], _use_new_zipfile_serialization=False)
    monkeypatch.delitem(sys.modules, lightning)
    expected = StableDiffusion(SMALL, weights=folder).state_dict()
    for path in paths:
        loaded = StableDiffusion(SMALL, weights=path).state_dict()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected), path


def test_half_precision_weights_are_loaded_in_32_bit(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").half()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", variant="fp16")
    loaded = StableDiffusion(SMALL, weights=folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_the_error_for_another_architecture_names_the_entry_and_both_shapes(folder: Path) -> None:
    wide = json.loads(json.dumps(SMALL))
    wide["unet"]["cross_attention_dim"] = 32
    with pytest.raises(
        InputError, match=r"attn2.to_k.weight.*\(16, 24\).*\(16, 32\).*architecture"
    ):
        StableDiffusion(wide, weights=folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"diffusion_pytorch_model.safetensors: not a complete"):
        StableDiffusion(SMALL, weights=folder)


class Payload:
    """An object whose pickle calls a function that writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": Payload(tmp_path / "ran")}}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=r"evil.ckpt: refused.*safetensors"):
        StableDiffusion(SMALL, weights=tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.safetensors", "no such file"),
        ("some/where/else", "no such file or folder"),
        ("owner/model-that-is-not-here", "not on this machine"),
    ],
)
def test_a_missing_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StableDiffusion(SMALL, weights=source)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown architecture 'sd3'.*sd15"):
        StableDiffusion("sd3")


class TestStableDiffusion(BackboneContract):
    def build(self) -> StableDiffusion:
        return StableDiffusion(SMALL)

    def run(self, backbone: StableDiffusion, image: torch.Tensor) -> Pyramid:
        # several tokens, so that every weight of the cross-attention gets a gradient
        tokens = torch.linspace(-1, 1, 3 * backbone.context_dim).reshape(1, 3, -1)
        return run(backbone, image, tokens.expand(len(image), -1, -1))
