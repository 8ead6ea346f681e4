"""The codec of scalar labels: every class is a bin, an interval of values."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.choices import Spacing
from diffsight.codecs.checks import require_distinct_labels, require_finite_labels
from diffsight.errors import InputError
from diffsight.outputs import LabelCodec, SoftLabels

TAIL = 0.001  # fraction of the labels below the lowest edge, and above the highest edge
STEEPNESS = 99.0  # spacing log1p is log(1 + 99 u) / log 100, where u is the fraction of the range


class ScalarBins(LabelCodec):
    """Bins over the range of the training labels; values outside are in the first or last bin.

    Args:
        bins: number of bins; their edges and values are NaN until the codec is fitted or loaded.
    """

    def __init__(self, bins: int) -> None:
        super().__init__(1)
        self.edges: Tensor
        self.values: Tensor
        self.register_buffer("edges", torch.full((bins + 1,), torch.nan))
        self.register_buffer("values", torch.full((bins,), torch.nan))

    @classmethod
    def of(cls, edges: Float[Tensor, " n_edges"], values: Float[Tensor, " n"]) -> "ScalarBins":
        """Return bins with given edges and values.

        Args:
            edges: edges of the bins in ascending order; one more than there are bins.
            values: value of each bin, in the unit of the labels.
        """
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
        """Fit bins to the labels of a training set.

        If the labels have exactly as many different values as there are bins, every value gets its
        own bin.

        Args:
            values: labels of all valid pixels.
            bins: number of bins.
            spacing: ``log``: equal steps of the logarithm, for metric depth (equal relative
                errors); ``log1p``: equal steps of ``log(1 + 99 u)``, where u is the fraction of the
                range (fine steps near the lower end, for maps with many zeros); ``linear``: equal
                steps of the value; ``quantile``: equal counts of labels.
            limits: lowest and highest edge; default: the quantiles 0.001 and 0.999 of the labels.

        Raises:
            InputError: if there are no labels, a label is not finite, all labels are equal, there
                are fewer different labels than bins, or a label is not positive with ``log``.
        """
        require_finite_labels(values)
        require_distinct_labels(values, bins, "bins")
        x = values[:, 0].double().sort().values
        if limits is None and len(few := x.unique()) == bins:
            between = (few[1:] + few[:-1]) / 2
            return cls.of(torch.cat([few[:1], between, few[-1:]]).float(), few.float())
        low, high = limits or (float(_quantile(x, TAIL)), float(_quantile(x, 1 - TAIL)))
        if low == high:  # nearly all labels are equal: use the whole range for the few others
            low, high = float(x[0]), float(x[-1])
        if spacing == "log" and low <= 0:
            raise InputError(
                f"spacing log needs positive labels, the smallest is {low:g}: choose log1p, linear "
                "or quantile"
            )
        steps = torch.linspace(0, 1, 2 * bins + 1, dtype=torch.float64)
        if spacing == "quantile":
            # count different values, so that a value that fills half of the images is one bin
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
        """Value of each bin: its centre on the scale of the spacing."""
        return self.values[:, None]

    def encode(self, label: Float[Tensor, "b 1 h w"]) -> SoftLabels:
        """Return the bin of every pixel, as labels with one class per pixel."""
        inner = self.edges[1:-1].to(label)
        return SoftLabels.hard(torch.bucketize(label[:, 0].contiguous(), inner, right=True))

    def intervals(self) -> list[tuple[float, float]]:
        """Return the lower and upper edge of every bin."""
        return list(itertools.pairwise(self.edges.tolist()))

    def names(self, unit: str) -> list[str]:
        """Return the edges of every bin as text, such as ``0.5 to 1 m``."""
        intervals = self.intervals()
        return [f"{_format_edge(a)} to {_format_edge(b)} {unit}".strip() for a, b in intervals]


def _quantile(ordered: Tensor, fraction: Tensor | float) -> Tensor:
    """Return quantiles of numbers in ascending order, with linear interpolation."""
    # torch.quantile refuses more than 16 million numbers
    position = torch.as_tensor(fraction, dtype=torch.float64) * (len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _format_edge(value: float) -> str:
    """Return a number as text: three significant digits, or no decimals from 100 to a million."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
