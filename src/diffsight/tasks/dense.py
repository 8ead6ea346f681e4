"""Tasks of the user's own: classes, a scalar, directions or vectors, learned as classification.

Few-shot, equation 5: L = L_cls + alpha L_reg over the pixels that have a label. L_reg is in units
of the support's standard deviation, so that alpha means the same for every task.
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from diffsight.codecs import AbstractCodec, Codes, expectation
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.colour import error_table, paint
from diffsight.types import (
    DepthPrediction,
    RawOutput,
    Target,
    ValuePrediction,
)

FLOOR = 1e-8  # of a probability whose logarithm is taken


class AbstractDense(AbstractTask):
    """What all such tasks share.

    Args:
        codec: fitted to the support's labels.
        alpha: weight of the squared error of the expected value; infinity leaves it alone
            (regression).
        spread: standard deviation of the support's labels, per channel; None without values.

    Attributes:
        score_name: of the figure by which methods are compared, with its unit.
        higher_is_better: what that figure's order means.
    """

    label = "label"
    score_name: str
    higher_is_better = False

    def __init__(
        self,
        codec: AbstractCodec,
        *,
        alpha: float = 1.0,
        spread: Float[Tensor, " d"] | None = None,
    ) -> None:
        self.codec = codec
        self.num_outputs = codec.num_classes
        self.alpha = alpha
        self.spread = spread

    def loss(self, raw: RawOutput, target: Target, codes: Codes | None = None) -> dict[str, Tensor]:
        """``loss``, ``class`` (cross-entropy) and, where there are values, ``value``.

        Args:
            raw: of the method.
            target: labels.
            codes: their classes, if they are known already.
        """
        parts = {}
        if self.spread is not None:
            gap = (self.value(raw) - target.label) / self.spread.to(raw.maps)[:, None, None]
            parts["value"] = _mean(gap.square().mean(dim=1), target.valid)
            if math.isinf(self.alpha):
                return {"loss": parts["value"], "value": parts["value"].detach()}
        codes = codes or self.codec.encode(target.label)
        ids, weights = codes.ids.to(raw.maps.device), codes.weights.to(raw.maps)
        surprise = -raw.maps.clamp(min=FLOOR).log().gather(1, ids)
        parts["class"] = _mean((weights * surprise).sum(dim=1), target.valid)
        loss = parts["class"] + self.alpha * parts.get("value", 0)
        return {"loss": loss} | {name: part.detach() for name, part in parts.items()}

    def value(self, raw: RawOutput) -> Float[Tensor, "b d h w"]:
        """The expected value: the method's, or that of the codec's centres."""
        if "value" in raw.auxiliary:
            return raw.auxiliary["value"]
        assert self.codec.centres is not None
        return expectation(raw.maps, self.codec.centres.to(raw.maps)[None])

    def hflip(self, raw: RawOutput) -> RawOutput:
        """Classes and values move with their pixel."""
        auxiliary = {name: value.flip(-1) for name, value in raw.auxiliary.items()}
        return replace(raw, maps=raw.maps.flip(-1), auxiliary=auxiliary)

    def mirrored(self, label: Float[Tensor, "d h w"]) -> Float[Tensor, "d h w"]:
        """The label of the mirrored image."""
        return label.flip(-1)

    @abc.abstractmethod
    def measure(self, raw: RawOutput, target: Target) -> Float64[Tensor, "..."]:
        """Sums over a batch, to be added up and given to ``score``."""

    @abc.abstractmethod
    def score(self, sums: Float64[Tensor, "..."]) -> float:
        """The figure of a whole set."""

    @abc.abstractmethod
    def constant(
        self, label: Float[Tensor, "b d h w"], valid: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, " d"]:
        """The one value for every pixel that scores best on these labels."""

    def as_output(self, label: Float[Tensor, "b d h w"]) -> RawOutput:
        """Labels as a method would give them."""
        maps = self.codec.encode(label).distribution(self.num_outputs)
        return RawOutput(maps, "probability", {} if self.spread is None else {"value": label})

    def truth(self, target: Target) -> Sequence[Any]:
        """The labels as perfect predictions."""
        return [
            replace(one, valid=valid)
            if isinstance(one, (ValuePrediction, DepthPrediction))
            else one
            for one, valid in zip(
                self.decode(self.as_output(target.label)), target.valid, strict=True
            )
        ]

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: Any, prediction: Any
    ) -> UInt8[Tensor, "3 h w4"]:
        """Image | truth | prediction | error."""
        parts = (
            (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8),
            self.draw(truth),
            self.draw(prediction),
            self.draw_error(truth, prediction),
        )
        return torch.cat(parts, dim=2)

    @abc.abstractmethod
    def draw_error(self, truth: Any, prediction: Any) -> UInt8[Tensor, "3 h w"]:
        """Where and how much two predictions differ."""

    def compact(self, raw: RawOutput) -> RawOutput:
        """Of a distribution over values mean and mean square; classes are all needed."""
        if self.codec.centres is None:
            return raw
        return RawOutput(self._moments(raw), "value", {"value": self.value(raw)})

    def _moments(self, raw: RawOutput) -> Float[Tensor, "b d2 h w"]:
        """Means and mean squares of the distribution over the codec's centres."""
        assert self.codec.centres is not None
        centres = self.codec.centres.to(raw.maps)
        centres = centres - centres.mean(dim=0)  # squares of far values would cancel
        return expectation(raw.maps, torch.cat([centres, centres.square()], dim=1)[None])

    def _spread_of(self, raw: RawOutput) -> Float[Tensor, "b h w"]:
        """Standard deviation of the distribution over the codec's centres."""
        moments = raw.maps if raw.space == "value" else self._moments(raw)
        first, second = moments.chunk(2, dim=1)
        return (second - first.square()).clamp(min=0).mean(dim=1).sqrt()


def _mean(values: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Over the pixels that count; 0 with its graph where none does."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def picture(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Channels first."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def rgb(share: Float[Tensor, "3 h w"], valid: Bool[Tensor, "h w"]) -> UInt8[Tensor, "3 h w"]:
    """Shares of 255; dark grey where not valid."""
    pixels = (share.clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.where(valid.cpu(), pixels, torch.full_like(pixels, 64))


def red(share: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"]) -> UInt8[Tensor, "3 h w"]:
    """From white (0) to red (1)."""
    share = 0.5 + 0.5 * share.clamp(0, 1).double()
    return picture(paint(share.numpy(), valid.cpu().numpy(), error_table()))
