"""Pictures of classes."""

import colorsys
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from diffsight.types import ClassPrediction

Colour = tuple[int, int, int]
TURN = 0.301  # of hue from one class to the next, by trial: 20 classes and 150 stay well apart


def palette(count: int) -> Sequence[Colour]:
    """Colours that tell classes apart, the same every time."""
    rows = []
    for i in range(count):
        value, saturation = (0.95, 0.75, 0.55)[i % 3], (0.65, 0.9)[i // 3 % 2]
        r, g, b = colorsys.hsv_to_rgb(i * TURN % 1, saturation, value)
        rows.append((round(255 * r), round(255 * g), round(255 * b)))
    return rows


def draw(prediction: ClassPrediction) -> UInt8[Tensor, "3 h w"]:
    """In the colours of the classes; black where there is none."""
    picture = torch.zeros(3, *prediction.ids.shape, dtype=torch.uint8)
    ids = prediction.ids.cpu()
    for number, colour in prediction.palette.items():
        picture[:, ids == number] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return picture


def draw_wrong(truth: ClassPrediction, prediction: ClassPrediction) -> UInt8[Tensor, "3 h w"]:
    """Red where the class is wrong."""
    wrong = (truth.ids != prediction.ids).cpu()
    picture = torch.full((3, *wrong.shape), 245, dtype=torch.uint8)
    picture[1:, wrong] = 60
    return picture
