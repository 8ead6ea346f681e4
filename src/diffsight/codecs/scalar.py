"""A scalar in bins."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.codecs.base import AbstractCodec, Codes, need_distinct, need_finite
from diffsight.errors import InputError

Spacing = Literal["log", "log1p", "linear", "quantile"]
TAIL = 0.001  # share of the labels below the lowest edge, and above the highest
STEEPNESS = 99.0  # of log1p: log(1 + 99 u) / log 100 of the range's share u


@dataclass(frozen=True)
class ScalarBins(AbstractCodec):
    """Bins between the extremes of a support set; what lies outside falls into the outer ones.

    Attributes:
        edges: ascending, one more than there are bins.
        values: of the bins, inside their edges.
    """

    kind: ClassVar[str] = "scalar"
    edges: Float[Tensor, " n_edges"]
    values: Float[Tensor, " n"]

    @classmethod
    def fit(
        cls,
        values: Float[Tensor, "m 1"],
        bins: int,
        *,
        spacing: Spacing = "log1p",
        limits: tuple[float, float] | None = None,
    ) -> "ScalarBins":
        """Bins for the labels of a support set; if it has as few values as bins, one for each.

        Args:
            values: labels of valid pixels.
            bins: how many.
            spacing: equal steps of the ``log`` (metric depth; equal relative errors), of ``log1p``
                (``log(1 + 99 u)`` of the share u of the range: fine steps near the lower end, for
                maps with many zeros), of the value itself (``linear``), or equal counts
                (``quantile``).
            limits: lowest and highest edge; default: the quantiles 0.001 and 0.999.

        Raises:
            InputError: if values are missing, not finite, constant, fewer than the bins, or not
                positive for ``log``.
        """
        need_finite(values)
        need_distinct(values, bins, "bins")
        x = values[:, 0].double().sort().values
        if limits is None and len(few := x.unique()) == bins:
            between = (few[1:] + few[:-1]) / 2
            return cls(torch.cat([few[:1], between, few[-1:]]).float(), few.float())
        low, high = limits or (float(_quantile(x, TAIL)), float(_quantile(x, 1 - TAIL)))
        if low == high:  # nearly all the same: then the few others are what there is to learn
            low, high = float(x[0]), float(x[-1])
        if spacing == "log" and low <= 0:
            raise InputError(
                f"labels down to {low:g} have no logarithm: choose another spacing (log1p, linear, "
                "quantile)"
            )
        steps = torch.linspace(0, 1, 2 * bins + 1, dtype=torch.float64)
        if spacing == "quantile":
            # counts of different values: a value that fills half of the picture is one bin
            marks = _quantile(x[(x >= low) & (x <= high)].unique(), steps)
        elif spacing == "log":
            marks = low * (high / low) ** steps
        else:
            if spacing == "log1p":
                steps = ((1 + STEEPNESS) ** steps - 1) / STEEPNESS
            marks = low + (high - low) * steps
        return cls(marks[::2].float(), marks[1::2].float())

    @property
    def num_classes(self) -> int:
        """Number of bins."""
        return len(self.values)

    @property
    def centres(self) -> Float[Tensor, "n 1"]:
        """Values of the bins: their middles in the spacing's measure."""
        return self.values[:, None]

    def encode(self, label: Float[Tensor, "b 1 h w"]) -> Codes:
        """The bin of every pixel."""
        inner = self.edges[1:-1].to(label)
        return Codes.hard(torch.bucketize(label[:, 0].contiguous(), inner, right=True))

    def state(self) -> tuple[dict[str, int | str | bool], dict[str, Tensor]]:
        """Edges and values."""
        return {}, {"edges": self.edges, "values": self.values}


def _quantile(ordered: Tensor, at: Tensor | float) -> Tensor:
    # torch.quantile refuses more than 16 million numbers
    place = torch.as_tensor(at, dtype=torch.float64) * (len(ordered) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
