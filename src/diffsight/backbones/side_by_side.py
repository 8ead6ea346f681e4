"""``SideBySide``: several backbones, or one at several image sizes, as a single backbone."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones.base import AbstractBackbone
from diffsight.errors import InputError
from diffsight.ops.resize import resize_image, working_hw
from diffsight.types import Latents, Pyramid


class SideBySide(AbstractBackbone):
    """A backbone with the features of several backbones, each at its own image size.

    The image is resized for each backbone, to sides that are multiples of its ``size_multiple``, so
    that every feature map covers exactly the image.

    Args:
        backbones: one or more; the same backbone may occur several times, with other sizes.
        short_sides: shorter side of the image in pixels, for each backbone.

    Raises:
        InputError: if there is not one size for each backbone.
    """

    size_multiple = 1

    def __init__(self, backbones: Sequence[AbstractBackbone], short_sides: Sequence[int]) -> None:
        super().__init__()
        if not backbones or len(backbones) != len(short_sides):
            problem = f"{len(backbones)} backbones, but {len(short_sides)} sizes"
            raise InputError(f"{problem}: give one size for each of them")
        self.backbones = nn.ModuleList(backbones)
        self._multiples = [backbone.size_multiple for backbone in backbones]
        self.short_sides = tuple(short_sides)
        largest = max(short_sides)
        # strides in pixels of the largest image, finest first
        levels = sorted(
            (backbone.strides[level] * largest / side, number, level)
            for number, (backbone, side) in enumerate(zip(backbones, short_sides, strict=True))
            for level in range(len(backbone.strides))
        )
        self._order = [(number, level) for _, number, level in levels]
        self.strides = tuple(max(1, round(stride)) for stride, _, _ in levels)
        self.channels = tuple(backbones[n].channels[level] for n, level in self._order)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the feature maps of all backbones, finest first.

        Args:
            image: RGB in [0, 1], of any size.
            latents: cache of latents that several methods share.
        """
        hw = (image.shape[-2], image.shape[-1])
        rows = []
        members = zip(self.backbones, self.short_sides, self._multiples, strict=True)
        for backbone, side, multiple in members:
            height, width = (max(1, round(n / multiple)) * multiple for n in working_hw(*hw, side))
            resized = resize_image(image, (height, width))
            rows.append(backbone(resized, latents=latents).features)
        features = tuple(rows[number][level] for number, level in self._order)
        return Pyramid(features, self.strides, hw, hw)
