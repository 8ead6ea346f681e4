"""Denoiser: alignment with the features of a teacher, and replaced autoencoders."""

import pytest
import torch
from safetensors.torch import load_file
from tests.pretrain.conftest import OPTIM
from torch.nn import functional

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.architectures import from_folder
from diffsight.ops.resize import resize_image
from diffsight.pretrain.autoencoder import Autoencoder
from diffsight.pretrain.denoiser import Denoiser
from diffsight.pretrain.frozen_outputs import principal_components

OPTIONS = {"optim": OPTIM, "steps": 1, "batch_size": 1}
TEACHER = "efficientnet-lite0@64"


def aligned_stage(**options) -> Denoiser:
    sizes = {"widths": (8, 8, 16, 16), "heads": (1, 1, 2, 2), "size": 32}
    return Denoiser(**OPTIONS | sizes | {"batch_size": 4, "teacher": TEACHER} | options)


def test_unet_features_are_aligned_with_the_features_of_a_vision_backbone(full_context):
    stage = aligned_stage(align_weight=0.7)
    objective = stage.objective(full_context)
    batch = stage.fetch(full_context)([0, 1, 2, 9], [5, 6, 7, 8])
    backbone = BackboneSource(TEACHER).vision
    pixels = resize_image(full_context.train.at([9], 32).float() / 255, (64, 64))
    with torch.no_grad():
        levels = [
            functional.interpolate(x, (16, 16), mode="bilinear")
            if x.shape[-1] < 16
            else functional.adaptive_avg_pool2d(x, 16)
            for x in backbone(pixels).features
        ]
    (path,) = full_context.cache.glob("teacher-*/components.safetensors")
    parts = load_file(path)
    expected = (torch.cat(levels, dim=1) - parts["mean"][:, None, None]).movedim(1, -1)
    expected = (expected @ parts["components"]).movedim(-1, 1)[0]
    torch.testing.assert_close(batch.teacher[3], expected, atol=2e-2, rtol=2e-3)
    losses = objective.losses(batch)
    torch.testing.assert_close(losses["loss"], losses["v"] + 0.7 * losses["align"])
    losses["align"].backward()
    assert all(p.grad is not None for p in objective.net.project.parameters())
    assert objective.net.unet.get_parameter("conv_out.weight").grad is None


@torch.no_grad()
def test_the_aligned_features_are_those_of_the_exported_backbone(full_context):
    stage = aligned_stage()
    objective = stage.objective(full_context)
    stage.export(objective, full_context, full_context.model)
    backbone = StableDiffusion(from_folder(full_context.model), weights=full_context.model).eval()
    for level, project in enumerate(objective.net.project):
        width = backbone.channels[level]
        project.weight.zero_()
        project.weight[:width, :, 0, 0] = torch.eye(width)
        project.bias.zero_()
    batch = stage.fetch(full_context)([0, 1], [5, 6])
    _, taps = objective.net(batch.latent, batch.steps, batch.text)
    features = backbone.features(batch.latent, batch.text, batch.steps)
    for tap, feature in zip(taps, features, strict=True):
        torch.testing.assert_close(tap[:, : feature.shape[1]], feature, atol=2e-3, rtol=2e-2)


def test_principal_components_keep_the_largest_variances():
    torch.manual_seed(0)
    hidden = torch.randn(4, 2, 10, 10)
    mixing = torch.randn(6, 2)
    x = torch.einsum("dk,bkhw->bdhw", mixing, hidden) + 0.01 * torch.randn(4, 6, 10, 10) + 3
    parts = principal_components(x, 2)
    coordinates = torch.einsum(
        "bdhw,dk->bkhw", x - parts["mean"][:, None, None], parts["components"]
    )
    variance = coordinates.var(dim=(0, 2, 3))
    assert variance[0] > variance[1]
    # the total variance of six standardised channels
    assert float(variance.sum()) == pytest.approx(6, rel=1e-3)
    assert float(coordinates.mean().abs()) < 1e-5


def test_the_option_early_sets_the_fraction_of_early_timesteps(full_context):
    steps = aligned_stage(early=0.5).fetch(full_context)([0] * 400, list(range(400))).steps
    # about 6 % of the other pictures have an early timestep, too
    assert 190 < int((steps < 60).sum()) < 240
    every = aligned_stage().fetch(full_context)([0] * 400, list(range(400))).steps
    assert int((every < 60).sum()) < 50


def test_replacing_the_autoencoder_keeps_the_inner_layers_of_the_unet(full_context):
    first = aligned_stage()
    first.export(first.objective(full_context), full_context, full_context.model)
    before = load_file(full_context.model / "unet" / "diffusion_pytorch_model.safetensors")
    shape = {"widths": (8, 8, 8, 8), "crop": 16, "latent_channels": 6}
    kept = Autoencoder(**shape, **OPTIONS)
    assert kept.check(32, 4) == 4
    replaced = Autoencoder(**shape, replace=True, **OPTIONS)
    assert replaced.check(32, 4) == 8
    replaced.export(replaced.objective(full_context), full_context, full_context.model)
    unet = aligned_stage(size=64).objective(full_context).net.unet
    assert unet.config["in_channels"] == unet.config["out_channels"] == 6
    assert unet.config["sample_size"] == 8
    state = unet.state_dict()
    changed = {name for name, value in before.items() if value.shape != state[name].shape}
    assert changed == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}
    assert all(torch.equal(state[n], before[n].float()) for n in before.keys() - changed)
    assert all(0 < float(state[name].std()) < 1 for name in changed)
