"""A linear probe of a frozen vision transformer: the few-shot paper's baseline (Table 1).

Patch tokens, one linear layer to the classes, their probabilities at the size of the image, and
the expected value of the fixed centres.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones.vision import PatchTokens
from diffsight.codecs import expectation
from diffsight.methods.base import AbstractCachedMethod
from diffsight.types import Draws, Inputs, RawOutput, Target

TOKENS = "tokens"


class LinearProbe(AbstractCachedMethod):
    """About as many numbers as the concepts have: ``width * classes + classes``.

    Args:
        num_outputs: classes.
        vision: frozen.
        centres: values of the classes; None for a task of discrete classes.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        vision: PatchTokens,
        centres: Float[Tensor, "n d"] | None = None,
    ) -> None:
        super().__init__()
        self.vision = vision.requires_grad_(False)
        self.out = nn.Conv2d(vision.width, num_outputs, 1)
        self.centres: Tensor | None
        self.register_buffer("centres", None if centres is None else centres.clone())

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> Inputs:
        """The tokens, each of mean 0 and variance 1, once per image."""
        tokens = self.vision(inputs.image).movedim(1, -1)
        tokens = functional.layer_norm(tokens, (self.vision.width,)).movedim(-1, 1)
        return replace(inputs, cached={TOKENS: tokens.contiguous()})

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """The probability of every class at the size of the image.

        Args:
            inputs: as ``encode`` gives them, or without its results.
            target: not used.
            draws: not used.
        """
        if TOKENS not in inputs.cached:
            inputs = self.encode(inputs)
        logits = self.out(inputs.cached[TOKENS]).float()
        hw = (inputs.image.shape[-2], inputs.image.shape[-1])
        probability = functional.interpolate(logits.softmax(dim=1), hw, mode="bilinear")
        if self.centres is None:
            return RawOutput(probability, "probability")
        value = expectation(probability, self.centres[None])
        return RawOutput(probability, "probability", {"value": value})
