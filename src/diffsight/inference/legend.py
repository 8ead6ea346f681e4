"""A legend below a picture: the colours of classes and their names."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
MARGIN_PX = 6
GROUND, INK = (255, 255, 255), (20, 20, 20)


def with_legend(picture: np.ndarray, colours: Mapping[str, Colour]) -> np.ndarray:
    """Return a picture ``h w 3`` with a white strip below it that names the colours.

    Entries that do not fit into a line begin another one; one that is wider than the picture is
    cut off.
    """
    if not colours:
        return picture
    height, width = picture.shape[:2]
    size = min(32, max(11, min(height, width) // 30))
    font = ImageFont.load_default(size)
    places: list[tuple[int, int]] = []
    x, y = MARGIN_PX, MARGIN_PX
    for name in colours:
        right = x + size + MARGIN_PX + int(font.getlength(name))
        if right > width - MARGIN_PX and x > MARGIN_PX:
            x, y = MARGIN_PX, y + size + MARGIN_PX
            right = x + size + MARGIN_PX + int(font.getlength(name))
        places.append((x, y))
        x = right + 2 * MARGIN_PX
    sheet = Image.new("RGB", (width, height + y + size + MARGIN_PX), GROUND)
    sheet.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    for (name, colour), (left, top) in zip(colours.items(), places, strict=True):
        top += height
        draw.rectangle((left, top, left + size, top + size), colour, (128, 128, 128))
        draw.text((left + size + MARGIN_PX, top + size / 2), name, INK, font, anchor="lm")
    return np.asarray(sheet)
