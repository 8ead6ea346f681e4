"""The contract of backbones: an image and a condition in, a pyramid out."""

import abc

from torch import nn

from diffsight.config import Configurable


class AbstractBackbone(nn.Module, Configurable, abc.ABC):
    """Turns images into a ``Pyramid``.

    Attributes:
        channels: channels of each level, finest first.
        strides: image pixels per feature pixel of each level.
        size_multiple: image sides must be a multiple of this many pixels.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_multiple: int
