"""A light head on the frozen features of Stable Diffusion: the plain alternative to concepts.

One pass without noise and without words; every level of the pyramid is brought to a few channels,
all to the finest one with the place in the picture, and mixed there. What is frozen runs once per
image.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.codecs import expectation
from diffsight.methods.base import AbstractCachedMethod
from diffsight.ops.padding import MID_GREY, pad_to_multiple
from diffsight.types import Draws, Inputs, RawOutput, Target

MOST_PARAMETERS = 70_000
PLACE = 5  # channels that tell where a pixel is


class FeatureHead(AbstractCachedMethod):
    """Logits of the classes from all levels, with few numbers that learn.

    Args:
        num_outputs: classes.
        backbone: frozen.
        context: the text condition, such as that of no words, ``1 tokens e``.
        centres: values of the classes; None for a task of discrete classes.
        width: channels after the projections; less where the head would have more than 70,000
            numbers.
        dropout: share of the frozen channels that a training step hides: ten images are learned
            by heart otherwise.
        blind: share of the images of which a training step hides all of them, so that the head
            learns what the place alone tells.
        place_share: share of an answer that the place alone gives: what ten images say of an
            eleventh is more sure than right.
        constant_share: share of an answer that ``prior`` gives: the labels' average, wherever a
            pixel is and whatever is seen.
        timestep: step whose embedding conditions the UNet; no noise is added.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        backbone: StableDiffusion,
        context: Float[Tensor, "1 tokens e"],
        centres: Float[Tensor, "n d"] | None = None,
        width: int = 48,
        dropout: float = 0.3,
        blind: float = 0.2,
        place_share: float = 0.0,
        constant_share: float = 0.0,
        timestep: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.timestep = timestep
        self.dropout = dropout
        self.blind = blind
        self.shares = (place_share, constant_share)
        self.context: Tensor
        self.centres: Tensor | None
        self.register_buffer("context", context.clone())
        self.register_buffer("centres", None if centres is None else centres.clone())
        total = sum(backbone.channels) + PLACE
        while (total + 9 * width + num_outputs + 4) * width + num_outputs > MOST_PARAMETERS:
            width -= 4
        self.project = nn.ModuleList(
            nn.Conv2d(channels, width, 1, bias=level == 0)
            for level, channels in enumerate(backbone.channels)
        )
        for level, channels in enumerate(backbone.channels):
            self.register_buffer(f"mean{level}", torch.zeros(channels, 1, 1))
            self.register_buffer(f"scale{level}", torch.ones(channels, 1, 1))
        self.prior: Tensor
        self.register_buffer("prior", torch.full((num_outputs,), 1 / num_outputs))
        self.place = nn.Conv2d(PLACE, width, 1, bias=False)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, num_outputs, 1)

    @torch.no_grad()
    def standardise(self, encoded: list[Inputs]) -> None:
        """Take mean and deviation of every channel from the support's features."""
        for level in range(len(self.project)):
            rows = [e.cached[f"level{level}"].float().movedim(1, -1).flatten(0, 2) for e in encoded]
            every = torch.cat(rows)
            deviation, mean = torch.std_mean(every, dim=0, correction=int(len(every) > 1))
            if len(every) == 1:  # which tells none
                deviation.fill_(1)
            self.get_buffer(f"mean{level}").copy_(mean[:, None, None])
            self.get_buffer(f"scale{level}").copy_(1 / (deviation[:, None, None] + 1e-4))

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> Inputs:
        """The pyramid, once per image."""
        image = pad_to_multiple(inputs.image, self.backbone.size_multiple, MID_GREY)
        context = self.context.expand(len(image), -1, -1)
        pyramid = self.backbone(image, context, timestep=self.timestep)
        levels = enumerate(pyramid.features)
        return replace(inputs, cached={f"level{i}": feature for i, feature in levels})

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """The probability of every class at the size of the image.

        Args:
            inputs: as ``encode`` gives them, or without its results.
            target: not used.
            draws: in training, which channels are hidden; without, none are.
        """
        if not self.training:
            return self.mixtures(inputs, [self.shares])[0]
        place, seen = self._read(inputs, draws)
        return self._output(self._classes(place + seen, inputs))

    def mixtures(self, inputs: Inputs, shares: Sequence[tuple[float, float]]) -> list[RawOutput]:
        """The answers with these shares of the place and of the constant, from one pass."""
        place, seen = self._read(inputs)
        whole = self._classes(place + seen, inputs)
        unseen = place + self.get_parameter("project.0.bias")[:, None, None]
        alone = self._classes(unseen, inputs) if any(a for a, _ in shares) else 0.0
        prior = self.prior[:, None, None]
        return [self._output((1 - a - c) * whole + a * alone + c * prior) for a, c in shares]

    def _read(
        self, inputs: Inputs, draws: Draws | None = None
    ) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "b c h w"]]:
        """What the place gives, and what all levels give."""
        if "level0" not in inputs.cached:
            inputs = self.encode(inputs)
        height, width = inputs.image.shape[-2:]
        stride = self.backbone.strides[0]
        grid = inputs.cached["level0"].shape[-2:]
        place = self.place(_places(grid, (height / stride, width / stride)).to(self.out.weight))
        seen = torch.zeros(())
        for level, project in enumerate(self.project):
            x = inputs.cached[f"level{level}"].float() - self.get_buffer(f"mean{level}")
            if draws is not None:
                x = x * self._kept(draws, level, x.shape[1]).to(x)
            x = project((x * self.get_buffer(f"scale{level}")).contiguous())
            seen = seen + functional.interpolate(x, grid, mode="bilinear")
        return place, seen

    def _output(self, probability: Float[Tensor, "b n h w"]) -> RawOutput:
        if self.centres is None:
            return RawOutput(probability, "probability")
        value = expectation(probability, self.centres[None])
        return RawOutput(probability, "probability", {"value": value})

    def _classes(
        self, hidden: Float[Tensor, "b c h w"], inputs: Inputs
    ) -> Float[Tensor, "b n height width"]:
        """Mixed, and brought to the size of the image."""
        height, width = inputs.image.shape[-2:]
        stride = self.backbone.strides[0]
        logits = self.out(functional.gelu(self.mix(functional.gelu(hidden)))).float()
        whole = (logits.shape[-2] * stride, logits.shape[-1] * stride)
        logits = functional.interpolate(logits, whole, mode="bilinear")[..., :height, :width]
        return logits.softmax(dim=1)

    def _kept(self, draws: Draws, level: int, channels: int) -> Float[Tensor, "b c 1 1"]:
        """0 for a hidden channel, for which the others make up, and for a hidden image."""
        limit, blind = torch.special.ndtri(torch.tensor([self.dropout, self.blind]))
        kept = (draws.normal(level, (channels, 1, 1)) > limit) / (1 - self.dropout)
        return kept * (draws.normal(len(self.project), (1, 1, 1)) > blind)


def _places(grid: Sequence[int], used: tuple[float, float]) -> Float[Tensor, "1 5 h w"]:
    """Row and column from -1 to 1 over the image, their squares and their product.

    Args:
        grid: of the finest level, padding included.
        used: rows and columns of it that the image fills.
    """
    rows, columns = (
        2 * (torch.arange(count) + 0.5) / filled - 1
        for count, filled in zip(grid, used, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, y * y, x * x, x * y])[None]
