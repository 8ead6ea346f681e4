"""DDP: training steps, sampling, batches and seeds."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts import MethodContract
from tests.support import images, random_target, randomise_weights
from tests.support_ddp import (
    CONVNEXT,
    NAMES,
    build_ddp_depth,
    build_ddp_segmentation,
    count_passes,
    ddp_parts,
)
from torch import nn

from diffsight.backbones import BackboneSource, VisionBackbone
from diffsight.diffusion import AnalogBits, ClassEmbedding, OneHot, Sampler, ScalarMap
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder
from diffsight.hub import load, save
from diffsight.inference.cost import estimate_cost
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.necks import NormalisedFPN
from diffsight.outputs import Classes
from diffsight.tasks import Depth, Segmentation
from diffsight.types import Draws, Inputs, Target


class TestDDPForClasses(MethodContract):
    subject = DDP
    without_gradient = ("auxiliary",)

    def build(self) -> DenseModel:
        sampler = Sampler(steps=2, uncertainty="entropy")
        return build_ddp_segmentation(auxiliary=False, sampler=sampler)


class TestDDPForDepth(MethodContract):
    subject = DDP

    def build(self) -> DenseModel:
        return build_ddp_depth()


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_encoder_runs_once_and_the_decoder_once_per_step(steps: int) -> None:
    model = build_ddp_segmentation(sampler=Sampler(steps=steps)).eval()
    counts = count_passes(model)
    with torch.no_grad():
        model(Inputs(images(1, 64, 64)), draws=Draws((0,)))
    assert counts == {"backbone": 1, "decoder": steps}


@pytest.mark.parametrize("accumulate", ["last", "mean"])
def test_outputs_of_several_seeds_do_not_depend_on_the_batch(accumulate: str) -> None:
    rule = Sampler(steps=3, seeds=3, accumulate=accumulate)  # type: ignore[arg-type]
    model = randomise_weights(build_ddp_segmentation(sampler=rule)).eval()
    batch, seeds = images(8, 64, 96), tuple(range(8))
    with torch.no_grad():
        together = model(Inputs(batch), draws=Draws(seeds)).maps
        alone = torch.cat(
            [model(Inputs(batch[i : i + 1]), draws=Draws((i,))).maps for i in range(8)]
        )
    scale = together.abs().max()
    assert ((together - alone).abs().max() / scale) < 1e-5
    if accumulate == "mean":
        torch.testing.assert_close(together.sum(dim=1), torch.ones(8, 64, 96))


def test_an_image_stops_when_settled_while_others_continue() -> None:
    """The output of an image does not depend on the batch, whether it stops first or last."""
    model = randomise_weights(build_ddp_segmentation()).eval()
    x, draws = images(4, 64, 64), Draws((0, 1, 2, 3))
    with torch.no_grad():
        features = model.method.features(Inputs(x))
        steps = list(model.method.trajectory(features, draws, Sampler(steps=2)))
        changed = (steps[0].argmax(dim=1) != steps[1].argmax(dim=1)).float().mean(dim=(1, 2))
        # with this limit, two of the images stop after two steps
        limit = float(changed.sort().values[1:3].mean())
        assert 0 < limit < 1
        model.method.sampler = Sampler(steps=10, settled=limit)
        counts = count_passes(model)
        together = model.method.sample(features, draws).maps
        assert counts["decoder"] > 2
        for row in range(4):
            one = Draws((row,))
            alone = model.method.sample(features[row : row + 1], one).maps
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_option_settled_is_refused_for_values() -> None:
    model = build_ddp_depth(sampler=Sampler(settled=0.1)).eval()
    with pytest.raises(InputError, match="settled counts pixels that change their class"):
        model(Inputs(images(1, 64, 64)))


def test_a_training_step_runs_the_decoder_at_one_random_time() -> None:
    model = build_ddp_segmentation().train()
    counts = count_passes(model)
    inputs, target = Inputs(images(2, 64, 64)), random_target(model.task, 2, 64, 64)
    losses = model.losses(inputs, target, draws=Draws((1, 2)))
    losses["loss"].backward()
    assert counts == {"backbone": 1, "decoder": 1}
    assert "auxiliary" in losses
    assert model.method.encoding.table.weight.grad.abs().sum() > 0
    again = model.losses(inputs, target, draws=Draws((1, 2)))["cross_entropy"]
    other = model.losses(inputs, target, draws=Draws((3, 4)))["cross_entropy"]
    torch.testing.assert_close(again, losses["cross_entropy"])
    assert not torch.equal(again, other)


@pytest.mark.parametrize("aligned", ["reused", "fresh"])
def test_self_aligned_denoising_does_not_encode_the_labels(aligned: str) -> None:
    model = build_ddp_segmentation(aligned=aligned, auxiliary=False).train()
    counts = count_passes(model)
    inputs, target = Inputs(images(1, 64, 64)), random_target(model.task, 1, 64, 64)
    model.method.encoding.encode_target = lambda *args: pytest.fail("labels were encoded")
    model.losses(inputs, target, draws=Draws((1,)))["loss"].backward()
    assert counts["decoder"] == 2


def test_without_diffusion_the_output_does_not_depend_on_the_seed() -> None:
    decoder = MapDecoder(width=16, layers=2, hidden=8, time_width=None)
    arguments = ddp_parts(encoding=None, decoder=decoder)
    model = DenseModel(task=Segmentation(NAMES), method=partial(DDP, **arguments)).eval()
    with torch.no_grad():
        first, second = (
            model(Inputs(images(1, 64, 64)), draws=Draws((seed,))).maps for seed in (0, 1)
        )
    assert torch.equal(first, second)
    assert model.method.time is None
    with pytest.raises(InputError, match="without an encoding there is no time"):
        DenseModel(task=Segmentation(NAMES), method=partial(DDP, **ddp_parts(encoding=None)))


@pytest.mark.parametrize("encoding", [AnalogBits, OneHot])
def test_analog_bits_and_one_hot_codes_give_classes_at_the_size_of_the_image(encoding: Any) -> None:
    arguments = ddp_parts(encoding=encoding)
    model = DenseModel(task=Segmentation(NAMES), method=partial(DDP, **arguments)).eval()
    with torch.no_grad():
        output = model(Inputs(images(1, 40, 50)))
    assert isinstance(output, Classes)
    assert output.hw == (40, 50)


def test_depth_stays_within_its_bounds() -> None:
    model = randomise_weights(build_ddp_depth()).eval()
    with torch.no_grad():
        depth = model(Inputs(images(2, 40, 50))).value
    assert float(depth.min()) > 0.00099  # a depth of 0 has no logarithm
    assert float(depth.max()) <= 10


def test_depth_on_a_frozen_backbone_is_trained_although_it_begins_near_0() -> None:
    torch.manual_seed(0)
    task = Depth(max_depth_m=10.0)
    method = DDP.from_backbone(BackboneSource("efficientnet-lite0@64"))
    model = DenseModel(task=task, method=method).train()
    image, label = images(2, 64, 64), torch.rand(2, 1, 64, 64) + 4
    inputs, target = Inputs(image), Target(label, torch.ones(2, 64, 64, dtype=torch.bool))
    encoded = model.encode(inputs)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(20):
        loss = model.losses(inputs, target, encoded=encoded, draws=Draws((step, step + 100)))[
            "loss"
        ]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    with torch.no_grad():
        depth_m = model.eval()(inputs).value
    assert float((depth_m > 1).float().mean()) > 0.9


def test_the_layer_of_classes_starts_with_xavier_weights_as_in_the_authors_code() -> None:
    predict = build_ddp_segmentation().method.predict
    classes, width = predict.weight.shape[:2]
    bound = (6 / (classes + width)) ** 0.5
    assert 0.8 * bound < float(predict.weight.detach().abs().max()) <= bound


def test_peak_memory_does_not_depend_on_the_number_of_steps() -> None:
    peaks = set()
    for steps in (3, 10):
        model = build_ddp_segmentation(sampler=Sampler(steps=steps, accumulate="mean")).to("meta")
        peaks.add(estimate_cost(model, 64, 64).peak_bytes)
    assert len(peaks) == 1


def test_parts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match="decoder reads one feature map of 16 channels, but"):
        build_ddp_segmentation(neck=partial(NormalisedFPN, width=8))
    method = partial(DDP, **ddp_parts(encoding=ScalarMap))
    with pytest.raises(InputError, match="DDP needs bounds for values"):
        DenseModel(task=Depth(max_depth_m=None), method=method)


def test_the_loss_of_an_image_without_labels_is_zero() -> None:
    model = build_ddp_segmentation(auxiliary=False).train()
    target = random_target(model.task, 1, 64, 64)
    nothing = Target(target.label, torch.zeros_like(target.valid))
    loss = model.losses(Inputs(images(1, 64, 64)), nothing, draws=Draws((0,)))["loss"]
    assert float(loss.detach()) == 0


def test_the_number_of_parameters_is_that_of_the_paper() -> None:
    """Swin-T on ADE20K, with the auxiliary head: 39.67 M, without diffusion 35.28 M."""
    architecture = {
        "model_type": "swin",
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    names = [f"class {i}" for i in range(150)]
    counts = []
    for time_width, encoding in ((1024, ClassEmbedding), (None, None)):
        method = partial(
            DDP,
            backbone=VisionBackbone(architecture=architecture),
            neck=NormalisedFPN,
            decoder=MapDecoder(time_width=time_width),
            encoding=encoding,
        )
        model = DenseModel(task=Segmentation(names), method=method)
        assert isinstance(model.method.auxiliary, nn.Module)
        unused = "backbone.network.swin.layernorm."
        counts.append(
            sum(p.numel() for n, p in model.method.named_parameters() if not n.startswith(unused))
        )
    assert [round(count / 1e6, 2) for count in counts] == [39.67, 35.28]


@pytest.mark.parametrize("task", [Segmentation(NAMES), Depth(max_depth_m=10.0)])
def test_a_frozen_backbone_does_not_run_on_encoded_images(task: Any) -> None:
    source = BackboneSource("efficientnet-lite0@64")
    model = DenseModel(task=task, method=DDP.from_backbone(source)).train()
    assert not model.method.backbone.training
    inputs, target = Inputs(images(2, 64, 96)), random_target(model.task, 2, 64, 96)
    encoded = model.encode(inputs)
    model.method.backbone.forward = lambda *args, **kwargs: pytest.fail("the backbone ran again")
    model.losses(inputs, target, encoded=encoded, draws=Draws((0, 1)))["loss"].backward()
    trainable = {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"neck", "decoder", "fuse", "time", "predict"} | (
        {"encoding"} if task.class_names else set()
    )
    assert list(model.method.frozen()) == ["backbone"]


def test_a_sampling_step_costs_the_multiply_adds_of_the_authors_model() -> None:
    """At 512 x 512 px with 150 classes, a step has 69.617 billion multiply-adds."""
    architecture = {**CONVNEXT, "hidden_sizes": [8, 8, 16, 16]}
    counts = []
    for steps in (1, 2):
        method = partial(
            DDP,
            backbone=VisionBackbone(architecture=architecture),
            neck=NormalisedFPN,
            decoder=MapDecoder(),
            encoding=ClassEmbedding,
            sampler=Sampler(steps=steps),
        )
        names = [f"class {i}" for i in range(150)]
        model = DenseModel(task=Segmentation(names), method=method).to("meta")
        counts.append(estimate_cost(model, 512, 512).multiply_adds)
    assert (counts[1] - counts[0]) / 1e9 == pytest.approx(69.617, abs=0.005)


def test_a_saved_model_on_a_frozen_backbone_stays_frozen(tmp_path: Path) -> None:
    method = DDP.from_backbone(BackboneSource("efficientnet-lite0@64"))
    model = DenseModel(task=Segmentation(NAMES), method=method)
    again = load(save(model, tmp_path / "model")).train()
    assert again.method.is_frozen
    assert list(again.method.frozen()) == ["backbone"]
    assert not again.method.backbone.training
    assert not any(p.requires_grad for p in again.method.backbone.parameters())
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size < 4e6  # the file contains only neck and decoder


def test_training_times_keep_32_bits_in_mixed_precision() -> None:
    model = build_ddp_segmentation(auxiliary=False).train()
    times = []
    model.method.time.register_forward_hook(lambda module, args, output: times.append(args[0]))
    inputs, target = Inputs(images(8, 64, 64)), random_target(model.task, 8, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        model.losses(inputs, target, draws=Draws(tuple(range(8))))
    (log_snr,) = times
    assert log_snr.dtype == torch.float32
    assert (log_snr.bfloat16().float() != log_snr).float().mean() > 0.5
