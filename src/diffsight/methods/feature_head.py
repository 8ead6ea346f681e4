"""A light head on the frozen features of a backbone: the plain alternative to concepts.

One pass without noise and without text; every level of the pyramid is brought to a few channels,
all to the finest one with the position in the picture, and mixed there. What is frozen runs once
per image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, BackboneSource, SideBySide
from diffsight.methods.base import FitSettings, MethodBuilder, Variant, builder_of
from diffsight.methods.conditioned import Conditioned
from diffsight.methods.frozen import AbstractFrozen
from diffsight.ops.precision import without_autocast
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import Unprompted
from diffsight.types import Draws, Encoded, Inputs, Maps, PixelGrid, Target

MOST_PARAMETERS = 70_000
POSITION_CHANNELS = 5
VISION_SETTINGS = {"batch_size": 4, "max_steps": 150}  # by trial on rooms: more score the same
# weights of the position alone and of the labels' average, of which held-out images choose
WEIGHTS = tuple((a / 4, c / 4) for a in range(4) for c in range(4 - a))


@dataclass(frozen=True)
class EncodedLevels(Encoded):
    """A pyramid.

    Attributes:
        levels: features, finest first.
        covered: an empty map of the size in image pixels that the finest level covers.
    """

    levels: tuple[Float[Tensor, "b _ _ _"], ...]
    covered: Float[Tensor, "b 0 ph pw"]


class FeatureHead(AbstractFrozen):
    """Probabilities of the classes from all levels, with few numbers that learn.

    Args:
        output: a distribution, or classes.
        backbone: frozen.
        width: channels after the projections; less where the head would have more than 70,000
            numbers.
        feature_drop_probability: of hiding a frozen channel in a training step; the head would
            memorise ten images otherwise.
        image_drop_probability: of hiding all channels of an image in a training step, so that the
            head learns what the position alone says.
        position_weight: of the prediction from the position alone: what ten images say of an
            eleventh is overconfident.
        prior_weight: of the labels' average, the same at every position of every image.
        pixel_step: a training step takes every so many pixels of a side, from a random one on;
            neighbours say nearly the same, and maps of many classes cost more than the head.
    """

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: AbstractBackbone,
        width: int = 48,
        feature_drop_probability: float = 0.3,
        image_drop_probability: float = 0.2,
        position_weight: float = 0.0,
        prior_weight: float = 0.0,
        pixel_step: int = 1,
    ) -> None:
        super().__init__(output, backbone)
        self.feature_drop_probability = feature_drop_probability
        self.image_drop_probability = image_drop_probability
        self.position_weight = position_weight
        self.prior_weight = prior_weight
        self.pixel_step = pixel_step
        classes = output.channels
        total = sum(backbone.channels) + POSITION_CHANNELS
        while (total + 9 * width + classes + 4) * width + classes > MOST_PARAMETERS and width > 4:
            width -= 4
        self.project = nn.ModuleList(
            nn.Conv2d(channels, width, 1, bias=level == 0)
            for level, channels in enumerate(backbone.channels)
        )
        for level, channels in enumerate(backbone.channels):
            self.register_buffer(f"mean{level}", torch.zeros(channels, 1, 1))
            self.register_buffer(f"scale{level}", torch.ones(channels, 1, 1))
        self.prior: Tensor
        self.register_buffer("prior", torch.full((classes,), 1 / classes))
        self.position = nn.Conv2d(POSITION_CHANNELS, width, 1, bias=False)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, classes, 1)

    @torch.no_grad()
    def fit_statistics(
        self, encoded: Sequence[EncodedLevels], class_frequencies: Float[Tensor, " n"] | None
    ) -> None:
        """Take mean and deviation of every channel, and the classes' frequencies."""
        for level in range(len(self.project)):
            rows = [e.levels[level].float().movedim(1, -1).flatten(0, 2) for e in encoded]
            every = torch.cat(rows)
            deviation, mean = torch.std_mean(every, dim=0, correction=int(len(every) > 1))
            if len(every) == 1:  # which says nothing of a deviation
                deviation.fill_(1)
            self.get_buffer(f"mean{level}").copy_(mean[:, None, None])
            self.get_buffer(f"scale{level}").copy_(1 / (deviation[:, None, None] + 1e-4))
        if class_frequencies is not None:
            self.prior.copy_(class_frequencies)

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> EncodedLevels:
        """Return the pyramid."""
        pyramid = self.pyramid(inputs)
        covered = inputs.image.new_empty(len(inputs.image), 0, *pyramid.covered_hw(0))
        return EncodedLevels(pyramid.features, covered)

    def forward(
        self,
        inputs: Inputs,
        encoded: EncodedLevels | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the probability of every class at the size of the image.

        Args:
            inputs: images.
            encoded: as ``encode`` gives it.
            target: with boxes every pixel counts, see ``trained_pixels``.
            draws: in training, which channels are hidden; without, none are.
        """
        if not self.training:
            return self._mixtures(inputs, encoded, [(self.position_weight, self.prior_weight)])[0]
        encoded = encoded or self.encode(inputs)
        position, seen = self._read(inputs, encoded, draws)
        pixels = self.trained_pixels(draws, target)
        return self._output(self._classes(position + seen, inputs, encoded, pixels))

    def trained_pixels(self, draws: Draws | None, target: Target | None) -> PixelGrid | None:
        """Return every ``pixel_step``-th pixel, from a random one on; all where there are boxes."""
        has_boxes = target is not None and target.boxes is not None
        if self.pixel_step == 1 or draws is None or has_boxes or not self.training:
            return None
        first = Draws(draws.seeds[:1])  # the same pixels for all images of a batch
        rows, columns = (
            int(first.integers(len(self.project) + 1 + axis, 0, self.pixel_step - 1))
            for axis in range(2)
        )
        return slice(rows, None, self.pixel_step), slice(columns, None, self.pixel_step)

    def variants(self) -> list[Variant]:
        """Return the pairs of weights."""
        return [{"position_weight": a, "prior_weight": c} for a, c in WEIGHTS]

    def forward_variants(
        self, inputs: Inputs, encoded: EncodedLevels | None = None
    ) -> list[Output]:
        """Return the outputs with these weights, from one pass."""
        return self._mixtures(inputs, encoded, WEIGHTS)

    def use(self, variant: Variant) -> None:
        """Set the weights."""
        self.position_weight = variant["position_weight"]
        self.prior_weight = variant["prior_weight"]
        self._restate(dict(variant))

    def _mixtures(
        self, inputs: Inputs, encoded: EncodedLevels | None, weights: Sequence[tuple[float, float]]
    ) -> list[Output]:
        encoded = encoded or self.encode(inputs)
        position, seen = self._read(inputs, encoded)
        whole = self._classes(position + seen, inputs, encoded)
        unseen = position + self.get_parameter("project.0.bias")[:, None, None]
        alone = self._classes(unseen, inputs, encoded) if any(a for a, _ in weights) else 0.0
        prior = self.prior[:, None, None]
        return [self._output((1 - a - c) * whole + a * alone + c * prior) for a, c in weights]

    def _read(
        self, inputs: Inputs, encoded: EncodedLevels, draws: Draws | None = None
    ) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "b c h w"]]:
        """Return what the position gives, and what all levels give."""
        grid = encoded.levels[0].shape[-2:]
        sides = zip(grid, inputs.image.shape[-2:], encoded.covered.shape[-2:], strict=True)
        rows, columns = (count * side / covered for count, side, covered in sides)
        seen = torch.zeros(())
        with without_autocast(self.out.weight):
            position = self.position(_positions(grid, (rows, columns)).to(self.out.weight))
            for level, project in enumerate(self.project):
                x = encoded.levels[level].float() - self.get_buffer(f"mean{level}")
                if draws is not None:
                    x = x * self._kept(draws, level, x.shape[1]).to(x)
                x = project((x * self.get_buffer(f"scale{level}")).contiguous())
                seen = seen + functional.interpolate(x, grid, mode="bilinear")
        return position, seen

    def _classes(
        self,
        hidden: Maps,
        inputs: Inputs,
        encoded: EncodedLevels,
        pixels: PixelGrid | None = None,
    ) -> Tensor:
        """Mix, and bring to the size of the image, or to some of its pixels."""
        with without_autocast(self.out.weight):
            logits = self.out(functional.gelu(self.mix(functional.gelu(hidden)))).float()
        return self._at_image_size(logits, encoded.covered, inputs, pixels).softmax(dim=1)

    def _kept(self, draws: Draws, level: int, channels: int) -> Float[Tensor, "b c 1 1"]:
        """Return 0 for a hidden channel, for which the others make up, and for a hidden image."""
        probabilities = torch.tensor([self.feature_drop_probability, self.image_drop_probability])
        channel_limit, image_limit = torch.special.ndtri(probabilities)
        kept = draws.normal(level, (channels, 1, 1)) > channel_limit
        kept = kept / (1 - self.feature_drop_probability)
        return kept * (draws.normal(len(self.project), (1, 1, 1)) > image_limit)

    @classmethod
    def from_backbone(
        cls, source: BackboneSource, *, timesteps: tuple[int, ...] = (1,), **options: Any
    ) -> MethodBuilder:
        """Return a builder on a frozen backbone: Stable Diffusion without text, or a vision one.

        Args:
            source: of the backbone.
            timesteps: of diffusion models, which run once for each of them.
            options: of the constructor.
        """
        backbone = pyramid_backbone(source, timesteps)
        if not source.is_diffusion:  # which sees larger images than the embedded diffusion model
            options = {"pixel_step": 4, **options}
        return builder_of(cls, lambda output: cls(output=output, backbone=backbone, **options))

    @classmethod
    def few_shot_settings(cls, source: BackboneSource, output: OutputSpec) -> FitSettings:
        """Return fewer and smaller steps on a vision backbone, whose features need no more."""
        settings = cls.few_shot_defaults()
        return settings if source.is_diffusion else replace(settings, **VISION_SETTINGS)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return AdamW with one rate, batches of 8."""
        return FitSettings({"": 2e-3}, batch_size=8, max_steps=1500, weight_decay=0.01)


def pyramid_backbone(source: BackboneSource, timesteps: tuple[int, ...] = (1,)) -> AbstractBackbone:
    """Return the pretrained model as a plain backbone: a diffusion model under no text."""
    if source.parts:
        parts = [pyramid_backbone(part, timesteps) for part in source.parts]
        return SideBySide(parts, [part.short_side_px for part in source.parts])
    if not source.is_diffusion:
        return source.vision
    prompts = Unprompted.of_folder(source.folder, source.diffusion.context_dim)
    return Conditioned(source.diffusion, prompts, timesteps=timesteps).eval()


def _positions(grid: Sequence[int], used: tuple[float, float]) -> Float[Tensor, "1 5 h w"]:
    """Return row and column from -1 to 1 over the image, their squares and their product.

    Args:
        grid: of the finest level, padding included.
        used: rows and columns of it that the image fills.
    """
    rows, columns = (
        2 * (torch.arange(count) + 0.5) / filled - 1
        for count, filled in zip(grid, used, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, y * y, x * x, x * y])[None]
