"""Metric bins: depth as the mean of bin centres that attractors move (ZoeDepth, 2023)."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.heads.base import AbstractHead, resize_aligned, to_output
from diffsight.heads.deconv import DeconvHead
from diffsight.ops.layers import start_convolutions
from diffsight.outputs import OutputSpec, Values
from diffsight.types import Pyramid

MIN_PROBABILITY = 1e-4
STRIP_ROWS = 16  # maps so small that the allocator reuses their memory


class MetricBins(AbstractHead):
    """Predicts depth as the mean of bin centres under a log-binomial distribution.

    Attractors, predicted from the feature maps of a decoder of transposed convolutions, move the
    centres. The centres are the softplus of network outputs, in metres; they are neither bounded
    nor sorted. EVP, depth: 1536 channels at stride 32. Differs from ZoeDepth's paper: the strength
    of the attractors is 300, because ZoeDepth's and EVP's code ignore the configured 1000.

    Args:
        in_channels: channels of the single input level.
        strides: stride of this level, a power of two.
        output: one channel of bounded values. The bounds apply only to the depth that the decoder
            itself predicts, which is one of the inputs of the distribution.
        widths: channels after each transposed convolution.
        width: channels of the decoder's full-resolution layers.
        bins: number of bins.
        bottleneck: channels from which the first centres are predicted.
        embedding: channels from which the attractors are predicted.
        attractors: number of attractors for each map of the decoder: one map per transposed
            convolution, and one after the first bilinear doubling.
        strength: strength of an attractor in 1/m^2. It moves a centre at distance ``d`` by
            ``d / (1 + strength d^2)``.
        temperatures: smallest and largest temperature of the distribution.

    Raises:
        InputError: if the output is not one map of bounded values, or the stride or the number of
            attractors does not fit the decoder.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        output: OutputSpec,
        widths: Sequence[int] = (32, 32, 32),
        width: int = 192,
        bins: int = 64,
        bottleneck: int = 256,
        embedding: int = 128,
        attractors: Sequence[int] = (16, 8, 4, 1),
        strength: float = 300.0,
        temperatures: tuple[float, float] = (0.0212, 50.0),
    ) -> None:
        super().__init__()
        if output.kind != "values" or output.channels != 1 or output.bounds is None:
            raise InputError(
                f"MetricBins gives one map of bounded values (metric depth), not "
                f"{output.describe()}: choose another head, or a task with a maximum"
            )
        self.decoder = DeconvHead(
            in_channels=in_channels, strides=strides, output=output, widths=widths, width=width
        )
        maps = (*widths, width)
        if len(attractors) != len(maps) or self.decoder.bilinear_doublings < 1:
            raise InputError(
                f"MetricBins moves its bins after {len(widths)} transposed convolutions and one "
                f"bilinear doubling: give {len(maps)} numbers of attractors and a stride of at "
                f"least {2 ** len(maps)}"
            )
        self.strength = strength
        self.bottleneck = nn.Sequential(
            nn.Conv2d(in_channels[0], bottleneck, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(bottleneck, bottleneck, 3, padding=1),
        )
        start_convolutions(self.bottleneck, partial(nn.init.normal_, std=0.001))
        self.seed = _two_layers(bottleneck, 256, bins)
        self.seed_embedding = _two_layers(bottleneck, embedding, embedding)
        self.embeddings = nn.ModuleList(_two_layers(c, embedding, embedding) for c in maps)
        self.attractors = nn.ModuleList(
            _two_layers(embedding, embedding, count) for count in attractors
        )
        self.distribution = LogBinomial(width + 1 + embedding, bins, temperatures)

    def forward(self, pyramid: Pyramid) -> Values:
        """Return the depth in metres at stride 1."""
        maps, last = self.decoder.maps(pyramid.features[0])
        x = self.bottleneck(pyramid.features[0])
        centres = functional.softplus(self.seed(x))
        previous = self.seed_embedding(x)
        for feature, embed, attract in zip(maps, self.embeddings, self.attractors, strict=True):
            size = feature.shape[-2:]
            embedding = embed(feature)
            goals = functional.softplus(attract(embedding + resize_aligned(previous, size)))
            centres = self.move_centres(resize_aligned(centres, size), goals)
            previous = embedding
        size = last.shape[-2:]
        own_depth = to_output(self.decoder.spec, self.decoder.output(last)).stack
        whole = last, own_depth, resize_aligned(previous, size), resize_aligned(centres, size)
        if torch.compiler.is_exporting():  # the number of strips would be a constant of the graph
            return Values(self._mean_depth(*whole))
        # pixels are independent from here on: in strips, hundreds of channels need little memory
        strips = zip(*(x.split(STRIP_ROWS, dim=2) for x in whole), strict=True)
        return Values(torch.cat([self._mean_depth(*strip) for strip in strips], dim=2))

    def _mean_depth(self, *parts: Tensor) -> Float[Tensor, "b 1 h w"]:
        """Return the mean of the bin centres; the last part has the centres."""
        *conditions, centres = parts
        weights = self.distribution(torch.cat(conditions, dim=1))
        return (weights * centres).sum(dim=1, keepdim=True)

    def move_centres(
        self, centres: Float[Tensor, "b n h w"], goals: Float[Tensor, "b a h w"]
    ) -> Float[Tensor, "b n h w"]:
        """Return the bin centres, moved by the mean pull of all attractors, in metres.

        Args:
            centres: bin centres in metres.
            goals: depths in metres towards which the attractors pull.
        """
        pull = torch.zeros_like(centres)
        for goal in goals.unbind(1):
            gap = goal[:, None] - centres
            pull = pull + gap / (1 + self.strength * gap.square())
        return centres + pull / goals.shape[1]


class LogBinomial(nn.Module):
    """Predicts a distribution over ordered bins from two numbers per pixel: position, temperature.

    Args:
        channels: channels of the features that the two numbers are predicted from.
        bins: number of bins.
        temperatures: smallest and largest temperature.
    """

    def __init__(self, channels: int, bins: int, temperatures: tuple[float, float]) -> None:
        super().__init__()
        self.bins = bins
        self.temperatures = temperatures
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1),
            nn.GELU(),
            nn.Conv2d(channels // 2, 4, 1),
            nn.Softplus(),
        )

    def forward(self, conditions: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        """Return the probabilities of the bins, which sum to 1."""
        parts = self.mlp(conditions) + MIN_PROBABILITY
        position = (parts[:, 0] / (parts[:, 0] + parts[:, 1]))[:, None]
        fraction = (parts[:, 2] / (parts[:, 2] + parts[:, 3]))[:, None]
        low, high = self.temperatures
        temperature = low + (high - low) * fraction
        steps = torch.arange(self.bins, device=position.device)[:, None, None]
        # 1.0, because the conversion to ONNX refuses limits of two types
        logits = (
            _log_binomials(self.bins)[:, None, None].to(position)
            + steps * position.clamp(MIN_PROBABILITY, 1.0).log()
            + (self.bins - 1 - steps) * (1 - position).clamp(MIN_PROBABILITY, 1.0).log()
        )
        return (logits / temperature).softmax(dim=1)


def _log_binomials(bins: int) -> Float[Tensor, " n"]:
    """Return the logarithms of the binomial coefficients of ``bins - 1`` over 0 ... ``bins - 1``.

    They are approximated by Stirling's formula without its terms of half a logarithm.
    """
    eps = 1e-7
    k = torch.arange(bins, dtype=torch.float64) + eps
    n = torch.tensor(bins - 1 + eps, dtype=torch.float64)
    return (n * n.log() - k * k.log() - (n - k) * (n - k + eps).log()).float()


def _two_layers(channels: int, inner: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, out, 1))
