"""Draw the plots of docs/results.md: scores by number of shots, pretraining or denoising steps.

The scripts that measure the scores call ``write_plot`` when they write their tables into the page.
``python benchmarks/results_summary.py`` draws all plots again from the stored tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reporting import RESULTS, interval

from diffsight.atomic import replacing
from diffsight.benchmark.statistics import summarise

Values = Mapping[int, Sequence[float]]
"""Scores of all repeats, by position on the x axis."""

COLOURS, MARKERS = ("#0072b2", "#d55e00"), ("o", "s")  # of curves; readable with colour blindness
LINES = ("--", ":")  # of baselines
INK, GREY, GRID = "#222222", "#666666", "#dddddd"
FIGURE_INCHES = (9.2, 2.9)  # width, height
STYLE: Any = {
    "svg.hashsalt": "diffsight",  # makes the bytes of the file depend on the numbers only
    "svg.fonttype": "none",  # stores text as text, in a fifth of the bytes of outlines
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: text above the axes.
        x_label: quantity of the x axis, with its unit.
        y_label: quantity of the y axis, with its unit.
        digits: digits after the point of the scores in the plot's description.
        curves: scores of all repeats by position, for each label of a curve.
        baselines: scores of all repeats that do not depend on the position, by label.
        is_log_x: whether the x axis is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    digits: int
    curves: Mapping[str, Values]
    baselines: Mapping[str, Sequence[float]]
    is_log_x: bool = False


@dataclass(frozen=True)
class Plot:
    """A picture of one or several panels.

    Attributes:
        name: name of the file, without ``.svg``.
        caption: alternative text of the picture in the page.
        panels: pairs of axes, from left to right.
    """

    name: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def markdown(self) -> str:
        """The line of the page that shows the picture."""
        return f"![{self.caption}]({self.name}.svg)"

    @property
    def description(self) -> str:
        """All plotted numbers as text: the mean ± 95 % interval of every point."""
        return "\n".join(line for panel in self.panels for line in _lines(panel))


def _lines(panel: Panel) -> Iterator[str]:
    form = f".{panel.digits}f"
    head = f"{panel.title}, {panel.y_label}"
    for label, values in panel.curves.items():
        points = "; ".join(f"{x:g}: {interval(list(y), form)}" for x, y in values.items())
        yield f"{head}, {label}, by {panel.x_label}: {points}"
    for label, scores in panel.baselines.items():
        yield f"{head}, {label}: {interval(list(scores), form)}"


def write_plot(plot: Plot, folder: Path = RESULTS.parent) -> Path:
    """Write ``NAME.svg`` into a folder and return its path.

    The background is opaque, so that the plot is readable on light and on dark pages. The file
    contains the plot's description as metadata.
    """
    import matplotlib as mpl  # only in the extras "test" and "docs"
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = folder / f"{plot.name}.svg"
    metadata = {"Date": None, "Creator": None, "Description": plot.description}
    with mpl.rc_context(STYLE), replacing(path) as partial:
        figure = Figure(FIGURE_INCHES, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.1))
        grid = figure.subplots(1, len(plot.panels), squeeze=False)
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid[0], plot.panels, strict=True):
            handles |= _draw(axes, panel)
        figure.legend(
            handles.values(),
            handles.keys(),
            title="mean, with its 95 % interval",
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
        )
        figure.savefig(partial, format="svg", metadata=metadata)
    return path


def _draw(axes: Any, panel: Panel) -> dict[str, Any]:
    """Draw curves with their intervals, and baselines as lines; return the handles by label."""
    handles = {}
    positions = sorted({x for values in panel.curves.values() for x in values})
    for number, (label, values) in enumerate(panel.curves.items()):
        summaries = [summarise(np.array(scores)) for scores in values.values()]
        # shifted sideways, so that intervals at one position do not overlap
        offset = number - (len(panel.curves) - 1) / 2
        span = positions[-1] - positions[0]
        handles[label] = axes.errorbar(
            [x * 1.05**offset if panel.is_log_x else x + 0.02 * span * offset for x in values],
            [summary.mean for summary in summaries],
            yerr=[summary.ci95 or 0 for summary in summaries],
            color=COLOURS[number],
            marker=MARKERS[number],
            markersize=4.5,
            elinewidth=1.1,
            capsize=3,
        )
    for line, (label, scores) in zip(LINES, panel.baselines.items(), strict=False):
        mean = summarise(np.array(scores)).mean
        handles[label] = axes.axhline(mean, color=GREY, linestyle=line, linewidth=1.3)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.is_log_x:
        axes.set_xscale("log")
    axes.set_xticks(positions, [f"{x:,g}" for x in positions])
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return handles
