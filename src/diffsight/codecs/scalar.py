"""A scalar in bins."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.choices import Spacing
from diffsight.codecs.checks import need_distinct, need_finite
from diffsight.errors import InputError
from diffsight.outputs import LabelCodec, SoftLabels

TAIL = 0.001  # fraction of the labels below the lowest edge, and above the highest
STEEPNESS = 99.0  # of log1p: log(1 + 99 u) / log 100 of the fraction u of the range


class ScalarBins(LabelCodec):
    """Bins between the extremes of a training set; what lies outside falls into the outer ones.

    Args:
        bins: how many; their edges and values are NaN until they are fitted or loaded.
    """

    def __init__(self, bins: int) -> None:
        super().__init__(1)
        self.edges: Tensor
        self.values: Tensor
        self.register_buffer("edges", torch.full((bins + 1,), torch.nan))
        self.register_buffer("values", torch.full((bins,), torch.nan))

    @classmethod
    def of(cls, edges: Float[Tensor, " n_edges"], values: Float[Tensor, " n"]) -> "ScalarBins":
        """Make bins with these edges (ascending, one more than there are bins) and values."""
        codec = cls(len(values))
        codec.edges, codec.values = edges, values
        return codec

    @classmethod
    def fit(
        cls,
        values: Float[Tensor, "m 1"],
        bins: int,
        *,
        spacing: Spacing = "log1p",
        limits: tuple[float, float] | None = None,
    ) -> "ScalarBins":
        """Fit bins to the labels of a training set; if it has as few values as bins, one for each.

        Args:
            values: labels of valid pixels.
            bins: how many.
            spacing: equal steps of the ``log`` (metric depth; equal relative errors), of ``log1p``
                (``log(1 + 99 u)`` of the fraction u of the range: fine steps near the lower end,
                for maps with many zeros), of the value itself (``linear``), or equal counts
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
            return cls.of(torch.cat([few[:1], between, few[-1:]]).float(), few.float())
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
        return cls.of(marks[::2].float(), marks[1::2].float())

    @property
    def num_classes(self) -> int:
        """Number of bins."""
        return len(self.values)

    @property
    def centres(self) -> Float[Tensor, "n 1"]:
        """Value of each bin, its middle on the scale of the spacing."""
        return self.values[:, None]

    def encode(self, label: Float[Tensor, "b 1 h w"]) -> SoftLabels:
        """Return the bin of every pixel."""
        inner = self.edges[1:-1].to(label)
        return SoftLabels.hard(torch.bucketize(label[:, 0].contiguous(), inner, right=True))

    def intervals(self) -> list[tuple[float, float]]:
        """Return the edges of every bin."""
        return list(itertools.pairwise(self.edges.tolist()))

    def names(self, unit: str) -> list[str]:
        """Return the edges of every bin."""
        return [f"{_rounded(a)} to {_rounded(b)} {unit}".strip() for a, b in self.intervals()]


def _quantile(ordered: Tensor, at: Tensor | float) -> Tensor:
    # torch.quantile refuses more than 16 million numbers
    position = torch.as_tensor(at, dtype=torch.float64) * (len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _rounded(value: float) -> str:
    """Return a few digits, without an exponent where whole numbers say more."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
