"""Small models of every kind that can be exported, and custom methods that are hard to export."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.tiny_model import ARCHITECTURE
from torch import Tensor, nn

from diffsight.backbones import BackboneSource, StableDiffusion, VisionBackbone
from diffsight.heads import DeconvHead, UPerHead
from diffsight.heads.metric_bins import MetricBins
from diffsight.methods import EVP, VPD, FeatureHead, FewShot, MetaPrompts
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.necks import IMAFR, Fused, Merging, PerLevel
from diffsight.outputs import Output, OutputSpec, Values
from diffsight.prompts import Aggregated, LearnedTokens, TextTable
from diffsight.tasks import Depth, Segmentation
from diffsight.types import Draws, Inputs, Target
from tests.support import randomise_weights
from tests.support_ddp import build_ddp_depth, build_ddp_segmentation

SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [2, 2, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


class AbstractToy(AbstractMethod):
    """Base class of methods with one convolution, whose result ``change`` returns."""

    output_kinds = ("values",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, output.channels, 3, padding=1)

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        assert draws is not None
        return Values(self.change(self.conv(inputs.image), draws))

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        raise NotImplementedError


class Noisy(AbstractToy):
    """Add noise of two streams; images need multiples of four pixels."""

    size_multiple = 4

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        shape = tuple(maps.shape[1:])
        return maps + draws.normal(3, shape).to(maps) - draws.normal(0, shape).to(maps)


class Baked(AbstractToy):
    """Add the number of pixels as a Python number, which becomes a constant of a graph."""

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        return maps + maps.new_tensor([maps.shape[-1] * maps.shape[-2]])


class Different(AbstractToy):
    """Compute other numbers in an exported graph."""

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        return maps * 1.01 if torch.compiler.is_exporting() else maps


class Unconvertible(AbstractToy):
    """Clamp between limits of two types, which the conversion to ONNX refuses."""

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        return maps.clamp(0.5, 1)


class Untraceable(AbstractToy):
    """Read a number of the image, which no graph can do."""

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        return maps if float(maps.sum()) > 0 else -maps


def toy(method: type[AbstractMethod], task: Any = None) -> DenseModel:
    """Return a model with random weights, of depth if no task is given."""
    torch.manual_seed(0)
    return DenseModel(task=Depth() if task is None else task, method=partial(method)).eval()


def binned_depth() -> Depth:
    """Return a task of depth with six bins."""
    return Depth(max_depth_m=None, bins=6).fitted(torch.linspace(1, 5, 500)[:, None])


def _few_labels(method: Any, backbone: str, **options: Any) -> DenseModel:
    source = BackboneSource(backbone)
    return DenseModel(task=binned_depth(), method=method.from_backbone(source, **options))


def _sd(**options: Any) -> StableDiffusion:
    return StableDiffusion(ARCHITECTURE, weights=None, **options)


def _vpd() -> DenseModel:
    method = partial(
        VPD,
        backbone=_sd(),
        prompts=TextTable(names=["kitchen", "office"], dim=8),
        neck=partial(Merging, width=32, groups=4),
        head=partial(DeconvHead, widths=(8, 8, 8), width=8),
    )
    return randomise_weights(DenseModel(task=Depth(), method=method))


def _evp() -> DenseModel:
    head = partial(
        MetricBins, widths=(8, 8, 8), width=8, bins=8, bottleneck=8, embedding=8
    )  # two strips of pixels
    method = partial(
        EVP,
        backbone=_sd(),
        prompts=Aggregated(8, dim=8),
        refine=partial(IMAFR, groups=4),
        neck=partial(Merging, width=32, groups=4),
        head=head,
    )
    return randomise_weights(DenseModel(task=Depth(), method=method))


def _meta_prompts(task: Any, **parts: Any) -> DenseModel:
    method = partial(
        MetaPrompts,
        backbone=_sd(conv_out=True, time_embedding=False, resize_skips=True),
        prompts=[LearnedTokens(6, dim=8)],
        passes=2,
        **parts,
    )
    return randomise_weights(DenseModel(task=task, method=method))


MODELS: dict[str, Callable[[], DenseModel]] = {
    "few_shot on tiny": lambda: _few_labels(FewShot, "tiny", codebook=1),
    "few_shot with CLIP": lambda: _few_labels(FewShot, "tiny"),
    "feature_head on tiny": lambda: _few_labels(FeatureHead, "tiny"),
    "feature_head on lite": lambda: _few_labels(FeatureHead, "efficientnet-lite0"),
    "vpd depth": _vpd,
    "evp depth": _evp,
    "meta_prompts classes": lambda: _meta_prompts(
        Segmentation(("a", "b", "c")), rearrange=PerLevel, head=partial(UPerHead, width=16)
    ),
    "meta_prompts depth": lambda: _meta_prompts(
        Depth(),
        rearrange=Fused,
        head=partial(DeconvHead, widths=(8, 8, 8), width=8),
        enlarge_by=1,
    ),
    "ddp classes": lambda: randomise_weights(build_ddp_segmentation()),
    "ddp depth": lambda: randomise_weights(build_ddp_depth()),
    "ddp on swin": lambda: randomise_weights(
        build_ddp_segmentation(backbone=VisionBackbone(architecture=SWIN))
    ),
}
"""Builders of models with small widths, by name; those on tiny and lite have trained backbones."""
