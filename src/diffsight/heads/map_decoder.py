"""DDP's map decoder: layers of deformable self-attention, conditioned on the diffusion time."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.config import Configurable
from diffsight.errors import InputError
from diffsight.ops.deformable_attention import deformable_attention

Map = Float[Tensor, "b c h w"]
Tokens = Float[Tensor, "b q c"]
FREQUENCIES = 8  # of the time embedding
TEMPERATURE = 10000.0  # of the position embedding
CHUNK = 1024  # tokens of a chunk on the CPU


class TimeEmbedding(nn.Module):
    """Embeds a time, or its log-SNR, with trainable frequencies and two linear layers.

    Args:
        width: width of the embedding.
    """

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(FREQUENCIES))
        self.first = nn.Linear(2 * FREQUENCIES + 1, width)
        self.second = nn.Linear(width, width)

    def forward(self, time: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Return the embeddings."""
        angle = time[:, None] * self.frequencies * 2 * math.pi
        waves = torch.cat([time[:, None], angle.sin(), angle.cos()], dim=1)
        return self.second(functional.gelu(self.first(waves)))


class DeformableSelfAttention(nn.Module):
    """Attention of every pixel to a few points around it.

    Args:
        width: width of a pixel's vector.
        heads: number of attention heads.
        points: number of points of every head.
    """

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(width, heads * points * 2)
        self.weights = nn.Linear(width, heads * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise the weights.

        Every head looks in its own direction, each of its points is one pixel farther away than the
        last, and all points have equal attention.
        """
        turn = torch.arange(self.heads) * (2 * math.pi / self.heads)
        rays = torch.stack([turn.cos(), turn.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        self.offsets.weight.zero_()
        self.offsets.bias.copy_((rays[:, None] * steps[:, None]).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            layer.bias.zero_()

    def forward(
        self, tokens: Tokens, positions: Float[Tensor, "q c"], hw: tuple[int, int]
    ) -> Tokens:
        """Return the tokens plus the result of the attention.

        Args:
            tokens: vectors of the pixels, row by row.
            positions: position embeddings of the pixels.
            hw: height and width of the map.
        """
        height, width = hw
        query = tokens + positions
        # bfloat16 cannot represent single pixels of a large map: positions stay in 32 bit
        offsets = self.offsets(query).unflatten(2, (self.heads, self.points, 2)).float()
        weights = self.weights(query).unflatten(2, (self.heads, self.points))
        size = torch.stack([offsets.new_full((), side) for side in (width, height)])
        points = pixel_centres(hw).to(offsets)[:, None, None] + offsets / size
        value = self.value(tokens).unflatten(2, (self.heads, -1))
        # a softmax over four neighbouring numbers takes ten times as long
        weights = weights.movedim(-1, 0).contiguous().softmax(dim=0).movedim(0, -1).contiguous()
        attended = deformable_attention(value, hw, points, weights)
        return tokens + self.output(attended.flatten(2))


class MapDecoderLayer(nn.Module):
    """Attention and two linear layers, each normalised; the time scales and shifts the result.

    Args:
        width: width of a pixel's vector.
        heads: number of attention heads.
        points: number of points of every head.
        hidden: width between the linear layers.
        time_width: width of the time embedding; None: the layer does not read the time.
    """

    def __init__(
        self, width: int, heads: int, points: int, hidden: int, time_width: int | None
    ) -> None:
        super().__init__()
        self.attention = DeformableSelfAttention(width, heads, points)
        self.first_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.second_norm = nn.LayerNorm(width)
        self.modulate = None if time_width is None else nn.Linear(time_width, 2 * width)
        layers: list[Any] = [self.widen, self.narrow, *([self.modulate] if self.modulate else [])]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self,
        tokens: Tokens,
        positions: Float[Tensor, "q c"],
        hw: tuple[int, int],
        time: Float[Tensor, "b e"] | None,
    ) -> Tokens:
        """Return the tokens after this layer.

        Args:
            tokens: vectors of the pixels, row by row.
            positions: position embeddings of the pixels.
            hw: height and width of the map.
            time: output of ``TimeEmbedding``; None for a layer that does not read the time.
        """
        tokens = self.first_norm(self.attention(tokens, positions, hw))
        tokens = self.second_norm(tokens + self._feed_forward(tokens))
        if self.modulate is None:
            return tokens
        assert time is not None
        scale, shift = self.modulate(functional.silu(time))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, tokens, scale + 1)

    def _feed_forward(self, tokens: Tokens) -> Tokens:
        """Return the output of the linear layers, in chunks that fit the cache of a CPU."""
        if tokens.device.type != "cpu" or torch.compiler.is_exporting():
            return self.narrow(functional.gelu(self.widen(tokens)))
        chunks = [
            self.narrow(functional.gelu(self.widen(chunk))) for chunk in tokens.split(CHUNK, dim=1)
        ]
        return torch.cat(chunks, dim=1)


class MapDecoder(nn.Module, Configurable):
    """Layers of deformable self-attention on a map: six in DDP, five for bird's-eye-view maps.

    Args:
        width: channels of the map; a multiple of four and of the number of heads.
        layers: number of layers.
        heads: number of attention heads.
        points: number of points of every head.
        hidden: width between the linear layers.
        time_width: width of the time embedding; None: the decoder does not read the time, as in the
            authors' released code for depth, and without diffusion.

    Raises:
        InputError: if the width is no such multiple, or there is no layer.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
        time_width: int | None = 1024,
    ) -> None:
        super().__init__()
        if width % heads or width % 4 or layers < 1:
            raise InputError(
                f"a map decoder of {layers} layers, {width} channels and {heads} heads: give at "
                "least one layer, and channels that are a multiple of four and of the heads"
            )
        self.width = width
        self.time_width = time_width
        self.layers = nn.ModuleList(
            MapDecoderLayer(width, heads, points, hidden, time_width) for _ in range(layers)
        )

    def check_width(self, channels: Sequence[int], *, accepts_any: bool) -> None:
        """Refuse features that the decoder cannot read.

        Args:
            channels: channels of the features.
            accepts_any: whether one map of any width is accepted, because the caller projects it.

        Raises:
            InputError: if the features are several maps, or their width is not accepted.
        """
        if tuple(channels) != (self.width,) and not (accepts_any and len(channels) == 1):
            raise InputError(
                f"the decoder reads one feature map of {self.width} channels, but gets maps with "
                f"{', '.join(map(str, channels))} channels: give neck and decoder the same width"
            )

    def forward(self, features: Map, time: Float[Tensor, "b e"] | None = None) -> Map:
        """Return the map after all layers; ``time`` is the output of ``TimeEmbedding``."""
        hw = (features.shape[-2], features.shape[-1])
        positions = sine_positions(hw, self.width).to(features)
        tokens = features.flatten(2).mT
        for layer in self.layers:
            tokens = layer(tokens, positions, hw, time)
        return tokens.mT.unflatten(2, hw)


def pixel_centres(hw: tuple[int, int]) -> Float[Tensor, "q 2"]:
    """Return x and y of the pixel centres, row by row; 0 and 1 are the edges of the map."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in hw)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def sine_positions(hw: tuple[int, int], width: int) -> Float[Tensor, "q c"]:
    """Return position embeddings: sines and cosines of row and column, scaled to a full turn."""
    count = width // 2
    exponents = 2 * (torch.arange(count) // 2) / count
    waves = []
    for side in hw:
        turn = (torch.arange(side) + 0.5) / (side + 1e-6) * 2 * math.pi
        angle = turn[:, None] / TEMPERATURE**exponents
        waves.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))
    rows = waves[0][:, None].expand(-1, hw[1], -1)
    columns = waves[1][None].expand(hw[0], -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
