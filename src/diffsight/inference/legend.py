"""Add a legend with the colours and names of classes below a picture."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
MARGIN_PX = 6
BACKGROUND, INK = (255, 255, 255), (20, 20, 20)


def add_legend(picture: np.ndarray, colours: Mapping[str, Colour]) -> np.ndarray:
    """Return a picture with a white strip below it that has the colours and their names.

    Entries that do not fit into a line start a new line. An entry that is wider than the picture is
    cut off.

    Args:
        picture: ``h w 3``, uint8.
        colours: colour of each class by its name; without any, the picture is returned unchanged.
    """
    if not colours:
        return picture
    height, width = picture.shape[:2]
    size = min(32, max(11, min(height, width) // 30))
    font = ImageFont.load_default(size)
    positions: list[tuple[int, int]] = []
    x, y = MARGIN_PX, MARGIN_PX
    for name in colours:
        right = x + size + MARGIN_PX + int(font.getlength(name))
        if right > width - MARGIN_PX and x > MARGIN_PX:
            x, y = MARGIN_PX, y + size + MARGIN_PX
            right = x + size + MARGIN_PX + int(font.getlength(name))
        positions.append((x, y))
        x = right + 2 * MARGIN_PX
    sheet = Image.new("RGB", (width, height + y + size + MARGIN_PX), BACKGROUND)
    sheet.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    for (name, colour), (left, top) in zip(colours.items(), positions, strict=True):
        top += height
        draw.rectangle((left, top, left + size, top + size), colour, (128, 128, 128))
        draw.text((left + size + MARGIN_PX, top + size / 2), name, INK, font, anchor="lm")
    return np.asarray(sheet)
