"""A linear probe of a frozen vision transformer: the few-shot paper's baseline (Table 1).

Patch tokens, one linear layer to the classes, their probabilities at the size of the image, and
the expected value of the fixed centres.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, BackboneSource, ClipTokens
from diffsight.methods.base import FitSettings, MethodBuilder, builder_of
from diffsight.methods.feature_head import pyramid_backbone
from diffsight.methods.frozen import AbstractFrozen
from diffsight.ops.precision import without_autocast
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Draws, Encoded, Inputs, Target


@dataclass(frozen=True)
class EncodedTokens(Encoded):
    """Tokens of mean 0 and variance 1.

    Attributes:
        tokens: of the coarsest level.
        covered: an empty map of the size in image pixels that the tokens cover.
    """

    tokens: Float[Tensor, "b c gh gw"]
    covered: Float[Tensor, "b 0 ph pw"]


class LinearProbe(AbstractFrozen):
    """About as many numbers as the concepts have: ``width * classes + classes``.

    Args:
        output: a distribution, or classes.
        backbone: frozen; its coarsest level is read.
    """

    def __init__(self, *, output: OutputSpec, backbone: AbstractBackbone) -> None:
        super().__init__(output, backbone)
        self.out = nn.Conv2d(backbone.channels[-1], output.channels, 1)

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> EncodedTokens:
        """Return the tokens."""
        pyramid = self.pyramid(inputs)
        tokens = pyramid.features[-1].movedim(1, -1)
        tokens = functional.layer_norm(tokens, tokens.shape[-1:]).movedim(-1, 1)
        covered = tokens.new_empty(len(tokens), 0, *pyramid.covered_hw(-1))
        return EncodedTokens(tokens.contiguous(), covered)

    def forward(
        self,
        inputs: Inputs,
        encoded: EncodedTokens | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the probability of every class at the size of the image."""
        encoded = encoded or self.encode(inputs)
        with without_autocast(self.out.weight):
            logits = self.out(encoded.tokens.to(self.out.weight))
        probability = logits.float().softmax(dim=1)
        return self._output(self._at_image_size(probability, encoded.covered, inputs))

    @classmethod
    def from_backbone(
        cls,
        source: BackboneSource,
        *,
        clip: str | Path | None = None,
        side: int | None = None,
        **options: Any,
    ) -> MethodBuilder:
        """Return a builder on CLIP's tokens (of a diffusion model) or on a vision backbone.

        Args:
            source: of the backbone.
            clip: CLIP vision model; default: the backbone's own, else CLIP ViT-L/14 from the hub.
            side: pixels of CLIP's input; default: its own.
            options: of the constructor.
        """
        backbone: AbstractBackbone
        if clip is not None or source.is_diffusion:
            backbone = ClipTokens(source.clip(clip), side=side)
        else:
            backbone = pyramid_backbone(source)
        return builder_of(cls, lambda output: cls(output=output, backbone=backbone, **options))

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return AdamW with one rate, batches of 8."""
        return FitSettings({"": 2e-3}, batch_size=8, max_steps=2000, weight_decay=0.01)
