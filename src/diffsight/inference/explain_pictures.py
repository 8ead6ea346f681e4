"""Draw the pictures of ``diffsight explain``: contact sheets, bar charts and line charts."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffsight.tasks.colour import depth_table

MAX_MAPS = 50  # on a sheet
COLUMNS = 8
CELL_PX, LARGE_PX = 168, 256  # longer side of an image on a sheet
GAP_PX, LINE_PX, FONT_PX = 8, 15, 12
HEAT = 0.8  # weight of a map's colour; the rest is the image in grey
LABEL_PX, BAR_PX, NUMBER_PX, ROW_PX = 180, 300, 60, 18  # sizes in a bar chart
PANEL_PX = (420, 240)  # width and height of a line chart
PAPER, INK, FAINT, BLUE, RED = "white", (30, 30, 30), (222, 222, 222), (66, 112, 178), (200, 50, 40)


@dataclass(frozen=True)
class _Cell:
    """A picture on a sheet with two lines of text below it."""

    picture: UInt8[Tensor, "3 h w"]
    title: str
    line: str = ""


def draw_concept_sheet(
    image: Float[Tensor, "3 h w"],
    prediction: UInt8[Tensor, "3 h w"],
    probability: Float[Tensor, "n h w"],
    classes: Sequence[Mapping[str, Any]],
) -> Image.Image:
    """Return a sheet with the image, the prediction and the probability map of every class.

    Of more than 50 classes, the sheet has those with the largest mean probabilities, in the order
    of the classes.

    Args:
        image: RGB in [0, 1].
        prediction: picture of the prediction.
        probability: probability of every class.
        classes: ``class`` (name), ``weight`` (mean probability) and ``largest`` (maximum
            probability) of every class.
    """
    means = torch.tensor([row["weight"] for row in classes])
    shown = sorted(means.argsort(descending=True, stable=True)[:MAX_MAPS].tolist())
    cells = [_Cell(_to_uint8(image), "image"), _Cell(prediction, "prediction")]
    for i in shown:
        row = classes[i]
        line = f"{row['weight']:.1%} of image, max {row['largest']:.2g}"
        cells.append(_Cell(_draw_heatmap(image, probability[i]), row["class"], line))
    selection = f"all {len(classes)} classes"
    if len(shown) < len(classes):
        selection = f"the {len(shown)} of {len(classes)} classes with the largest weights"
    return _draw_sheet(cells, f"Probability of {selection}. Dark: 0, bright: maximum of the map")


def draw_map_sheet(
    image: Float[Tensor, "3 h w"],
    prediction: UInt8[Tensor, "3 _ _"],
    maps: Mapping[str, Float[Tensor, "_ _"]],
    noun: str = "maps",
) -> Image.Image:
    """Return a sheet with the image, the prediction and up to 50 further maps.

    Args:
        image: RGB in [0, 1].
        prediction: picture of the prediction.
        maps: maps by name, with values from 0 on.
        noun: what the maps show, in the plural.
    """
    cells = [_Cell(_to_uint8(image), "image"), _Cell(prediction, "prediction")]
    for name, values in itertools.islice(maps.items(), MAX_MAPS):
        line = f"mean {float(values.mean()):.2g}, max {float(values.max()):.2g}"
        cells.append(_Cell(_draw_heatmap(image, values), name, line))
    heading = "Image and prediction"
    if maps:
        selection = f"the first {MAX_MAPS} of {len(maps)} {noun}"
        selection = selection if len(maps) > MAX_MAPS else noun
        heading += f" with {selection}. Dark: 0, bright: maximum of the map"
    return _draw_sheet(cells, heading)


def draw_picture_sheet(
    image: Float[Tensor, "3 h w"],
    pictures: Sequence[tuple[UInt8[Tensor, "3 _ _"], str, str]],
    heading: str,
) -> Image.Image:
    """Return a sheet with the image and pictures, each with two lines of text below it.

    Args:
        image: RGB in [0, 1].
        pictures: pictures, each with its title and a second line.
        heading: heading of the sheet.
    """
    cells = [_Cell(_to_uint8(image), "image"), *(_Cell(*one) for one in pictures)]
    return _draw_sheet(cells, heading, LARGE_PX)


def _draw_sheet(cells: Sequence[_Cell], heading: str, cell_px: int = CELL_PX) -> Image.Image:
    sizes = [_cell_size(cell, cell_px) for cell in cells]
    columns = min(COLUMNS, len(cells))
    step = cell_px + GAP_PX, max(height for _, height in sizes) + 2 * LINE_PX + GAP_PX
    top = LINE_PX + 3 * GAP_PX
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (GAP_PX + columns * step[0], top + rows * step[1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (GAP_PX, GAP_PX), heading)
    for i, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
        x, y = GAP_PX + i % columns * step[0], top + i // columns * step[1]
        tile = Image.fromarray(cell.picture.permute(1, 2, 0).contiguous().numpy())
        sheet.paste(tile.resize(size, Image.Resampling.BICUBIC), (x, y))
        _write(draw, (x, y + size[1]), _truncate(cell.title, cell_px))
        _write(draw, (x, y + size[1] + LINE_PX), cell.line)
    return sheet


def _cell_size(cell: _Cell, cell_px: int) -> tuple[int, int]:
    """Return the width and height of a cell's picture, whose longer side is ``cell_px``."""
    height, width = cell.picture.shape[-2:]
    factor = cell_px / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _to_uint8(image: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    return (image * 255).round().to(torch.uint8)


def _draw_heatmap(
    image: Float[Tensor, "3 _ _"], values: Float[Tensor, "h w"]
) -> UInt8[Tensor, "3 h w"]:
    """Return a map in colours from dark (0) to bright (its maximum) over the grey image.

    Maps of another size than the image, such as bird's-eye-view maps, are drawn without the image.
    """
    table = depth_table()[::-1]
    steps = (values / values.max().clamp(min=1e-12) * 255).round().to(torch.uint8).numpy()
    colours = torch.from_numpy(table[steps]).permute(2, 0, 1)
    if image.shape[-2:] != values.shape:
        return colours
    grey = image.mean(dim=0) * 255
    return (HEAT * colours + (1 - HEAT) * grey).round().to(torch.uint8)


def draw_bar_chart(labels: Sequence[str], columns: Mapping[str, Sequence[float]]) -> Image.Image:
    """Return a bar chart with a row per label and a column of bars per title.

    Args:
        labels: label of each row.
        columns: fractions of all rows by the title of the column; the bars of a column are scaled
            to its largest fraction.
    """
    width = LABEL_PX + len(columns) * (BAR_PX + NUMBER_PX)
    chart = Image.new("RGB", (width, 3 * LINE_PX + len(labels) * ROW_PX), PAPER)
    draw = ImageDraw.Draw(chart)
    for row, label in enumerate(labels):
        corner = LABEL_PX - GAP_PX, 2 * LINE_PX + row * ROW_PX
        draw.text(corner, _truncate(label, LABEL_PX - 2 * GAP_PX), INK, _font(), anchor="ra")
    for column, (title, fractions) in enumerate(columns.items()):
        x = LABEL_PX + column * (BAR_PX + NUMBER_PX)
        _write(draw, (x, GAP_PX), title)
        largest = max(*fractions, 1e-9)
        for row, fraction in enumerate(fractions):
            y, end = 2 * LINE_PX + row * ROW_PX, x + BAR_PX * fraction / largest
            if end - x >= 0.5:
                draw.rectangle((x, y + 1, end, y + ROW_PX - 4), BLUE)
            _write(draw, (x + BAR_PX + GAP_PX, y), f"{fraction:.1%}")
    return chart


def draw_codebook_chart(
    centres: Float[Tensor, "n d"],
    values: Float[Tensor, "n d"],
    tables: Float[Tensor, "k n d"],
    weights: Float[Tensor, " k"] | None,
    unit: str,
) -> Image.Image:
    """Return line charts of the class values of a codebook.

    Each channel has a row with two charts: the values of the classes, and their differences from
    the fixed centres. With several tables, a bar chart of their weights is below.

    Args:
        centres: fixed value of every class.
        values: value of every class in the image.
        tables: value of every class in each table of the codebook.
        weights: weight of each table in the image; None for a single table.
        unit: unit of the values.
    """
    channels = centres.shape[1]
    below = None
    if weights is not None:
        labels = [f"table {i}" for i in range(1, len(weights) + 1)]
        below = draw_bar_chart(labels, {"weights of the tables in this image": weights.tolist()})
    width, height = 2 * PANEL_PX[0], 2 * LINE_PX + GAP_PX + channels * PANEL_PX[1]
    chart = Image.new("RGB", (width, height + (below.height if below else 0)), PAPER)
    draw = ImageDraw.Draw(chart)
    tinted = "" if weights is None else ", darker for larger weights), this image (red"
    legend = f"Values of {len(centres)} classes: fixed centres (black), tables (blue{tinted})"
    _write(draw, (GAP_PX, GAP_PX), legend)
    strength = torch.ones(len(tables)) if weights is None else weights / weights.max()
    order = strength.argsort().tolist()  # the table with the largest weight is drawn last, on top
    for channel in range(channels):
        lines = [(tables[k, :, channel].numpy(), _tint(float(strength[k]))) for k in order]
        lines.append((centres[:, channel].numpy(), INK))
        if weights is not None:
            lines.append((values[:, channel].numpy(), RED))
        name = f"channel {channel + 1}, " if channels > 1 else ""
        y = 2 * LINE_PX + GAP_PX + channel * PANEL_PX[1]
        chart.paste(_draw_panel(f"{name}value, {unit}".strip(", "), lines), (0, y))
        gaps = [(line - centres[:, channel].numpy(), colour) for line, colour in lines]
        title = f"{name}minus fixed centre, {unit}".strip(", ")
        chart.paste(_draw_panel(title, gaps), (PANEL_PX[0], y))
    if below:
        chart.paste(below, (0, height))
    return chart


def _draw_panel(title: str, lines: Sequence[tuple[np.ndarray, tuple[int, ...]]]) -> Image.Image:
    """Return a chart of values over the classes.

    It is drawn at twice its size and reduced, so that the lines are smooth.

    Args:
        title: title of the chart.
        lines: value of every class, and the colour of the line.
    """
    width, height = (2 * side for side in PANEL_PX)
    left, right, top, bottom = 120, width - 24, 56, height - 56
    panel = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(panel), _font(2 * FONT_PX)
    ticks = _choose_ticks(*(float(f([f(x) for x, _ in lines])) for f in (np.min, np.max)))
    low, high = ticks[0], ticks[-1]

    def y_of(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    draw.text((left, 12), title, INK, font)
    for tick in ticks:
        draw.line((left, y_of(tick), right, y_of(tick)), FAINT, 2)
        draw.text((left - 10, y_of(tick)), f"{tick:.4g}", INK, font, anchor="rm")
    count = len(lines[0][0])
    draw.text((left, bottom + 14), "class 1", INK, font)
    draw.text((right, bottom + 14), str(count), INK, font, anchor="ra")
    columns = np.linspace(left, right, count)
    for line, colour in lines:
        pairs = zip(columns.tolist(), line.tolist(), strict=True)
        draw.line([(x, y_of(value)) for x, value in pairs], colour, 4, joint="curve")
    return panel.reduce(2)


def _choose_ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that cover the range from ``low`` to ``high``."""
    raw = max(high - low, 1e-3 * abs(high), 1e-9) / 4
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= raw), default=10)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [float(i * step) for i in range(first, max(last, first + 1) + 1)]


def _tint(strength: float) -> tuple[int, ...]:
    """Return a blue that is paler for a smaller strength in [0, 1]."""
    opacity = 0.25 + 0.75 * strength
    return tuple(round(255 + (c - 255) * opacity) for c in BLUE)


def _font(size: int = FONT_PX) -> Any:
    return ImageFont.load_default(size)


def _write(draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str) -> None:
    draw.text(position, text, INK, _font())


def _truncate(text: str, width: int) -> str:
    """Return the text, or the beginning that fits into ``width`` pixels with an ellipsis."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
