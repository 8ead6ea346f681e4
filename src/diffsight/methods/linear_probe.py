"""A linear probe of a frozen vision transformer: the few-shot paper's baseline (Table 1).

One linear layer turns each patch token into class probabilities, which are resized to the image.
The value of a pixel is the expected value over the fixed class centres.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, BackboneSource, ClipTokens
from diffsight.methods.base import FitSettings, MethodBuilder, make_builder
from diffsight.methods.feature_head import build_pyramid_backbone
from diffsight.methods.frozen import AbstractFrozenBackboneMethod
from diffsight.ops.precision import without_autocast
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Draws, Encoded, Inputs, Target


@dataclass(frozen=True)
class EncodedTokens(Encoded):
    """Patch tokens with a mean of 0 and a variance of 1 over their channels.

    Attributes:
        tokens: tokens of the backbone's coarsest level.
        covered: an empty tensor with the height and width of the image pixels that the tokens
            cover.
    """

    tokens: Float[Tensor, "b c gh gw"]
    covered: Float[Tensor, "b 0 ph pw"]


class LinearProbe(AbstractFrozenBackboneMethod):
    """One linear layer on the coarsest level of a frozen backbone.

    It has ``width * classes + classes`` parameters, about as many as the concepts of ``FewShot``.

    Args:
        output: specification of a distribution, or of classes.
        backbone: backbone; the probe freezes it.
    """

    def __init__(self, *, output: OutputSpec, backbone: AbstractBackbone) -> None:
        super().__init__(output, backbone)
        self.out = nn.Conv2d(backbone.channels[-1], output.channels, 1)

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> EncodedTokens:
        """Return the tokens of the coarsest level, normalised over their channels."""
        pyramid = self.pyramid(inputs)
        tokens = pyramid.features[-1].movedim(1, -1)
        tokens = functional.layer_norm(tokens, tokens.shape[-1:]).movedim(-1, 1)
        covered = tokens.new_empty(tokens.shape[0], 0, *pyramid.covered_hw(-1))
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
        return self._output(self._resize_to_image(probability, encoded.covered, inputs))

    @classmethod
    def from_backbone(
        cls,
        source: BackboneSource,
        *,
        clip: str | Path | None = None,
        side: int | None = None,
        **options: Any,
    ) -> MethodBuilder:
        """Return a builder of a probe of a vision backbone.

        For a diffusion model, it is a probe of CLIP's patch tokens.

        Args:
            source: the backbone.
            clip: source of a CLIP vision model, which is used instead of a vision backbone. The
                default for a diffusion model is its own, else CLIP ViT-L/14 from the hub.
            side: side of CLIP's input in pixels; default: the side of its training images.
            options: arguments of the constructor.

        Raises:
            InputError: if the CLIP model cannot be loaded, or ``side`` does not fit its patches.
        """
        backbone: AbstractBackbone
        if clip is not None or source.is_diffusion:
            backbone = ClipTokens(source.clip(clip), side=side)
        else:
            backbone = build_pyramid_backbone(source)
        return make_builder(cls, lambda output: cls(output=output, backbone=backbone, **options))

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with one learning rate and batches of 8."""
        return FitSettings({"": 2e-3}, batch_size=8, max_steps=2000, weight_decay=0.01)
