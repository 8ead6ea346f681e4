"""A light head on the features of a frozen backbone: the plain alternative to ``FewShot``.

The backbone runs once per image, without noise and without text. The head projects every level of
the pyramid, and the position in the image, to a few channels. It adds all of them at the size of
the finest level, and two convolutions turn the sum into class logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, BackboneSource, SideBySide
from diffsight.errors import InputError
from diffsight.methods.base import FitSettings, MethodBuilder, Variant, make_builder
from diffsight.methods.conditioned import Conditioned
from diffsight.methods.frozen import AbstractFrozenBackboneMethod
from diffsight.ops.precision import without_autocast
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import Unprompted
from diffsight.types import Draws, Encoded, Inputs, Maps, PixelGrid, Target

MAX_PARAMETERS = 70_000
POSITION_CHANNELS = 5  # row, column, their squares and their product
# for vision backbones; on rooms, more steps score the same
VISION_SETTINGS = {"batch_size": 4, "max_steps": 150}
# pairs of position_weight and prior_weight that are compared on held-out images
WEIGHTS = tuple((a / 4, c / 4) for a in range(4) for c in range(4 - a))


@dataclass(frozen=True)
class EncodedLevels(Encoded):
    """The features of a frozen backbone.

    Attributes:
        levels: features, finest first.
        covered: an empty tensor with the height and width of the image pixels that the finest level
            covers.
    """

    levels: tuple[Float[Tensor, "b _ _ _"], ...]
    covered: Float[Tensor, "b 0 ph pw"]


class FeatureHead(AbstractFrozenBackboneMethod):
    """A head with few parameters that predicts class probabilities from a frozen backbone.

    Args:
        output: specification of a distribution, or of classes.
        backbone: backbone; this class freezes it. All its levels are used.
        width: channels after the projections; reduced if the head would have more than 70,000
            parameters.
        feature_drop_probability: probability of hiding a channel of the backbone in a training
            step; without it the head memorises ten images.
        image_drop_probability: probability of hiding all channels of an image in a training step,
            so that the head also learns to predict from the position alone.
        position_weight: weight of the prediction from the position alone. It reduces the
            overconfidence of a head that was trained on a few images.
        prior_weight: weight of the class frequencies of the training labels, which are the same at
            every pixel of every image.
        pixel_step: a training step computes every ``pixel_step``-th row and column, starting at a
            random one. Neighbouring pixels add little information, and maps of many classes cost
            more time than the head.

    Raises:
        InputError: if a width, a step or a probability is out of range.
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
        for name, count in {"width": width, "pixel_step": pixel_step}.items():
            if count < 1:
                raise InputError(f"{name} {count}: give 1 or more")
        probabilities = {
            "feature_drop_probability": feature_drop_probability,
            "image_drop_probability": image_drop_probability,
        }
        for name, probability in probabilities.items():
            if not 0 <= probability < 1:
                raise InputError(f"{name} {probability:g}: give 0 or more, and less than 1")
        self.feature_drop_probability = feature_drop_probability
        self.image_drop_probability = image_drop_probability
        self.position_weight = position_weight
        self.prior_weight = prior_weight
        self.pixel_step = pixel_step
        classes = output.channels
        total = sum(backbone.channels) + POSITION_CHANNELS
        while (total + 9 * width + classes + 4) * width + classes > MAX_PARAMETERS and width > 4:
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
        """Compute mean and standard deviation of every channel, and store the class frequencies."""
        for level in range(len(self.project)):
            rows = [e.levels[level].float().movedim(1, -1).flatten(0, 2) for e in encoded]
            samples = torch.cat(rows)
            deviation, mean = torch.std_mean(samples, dim=0, correction=int(len(samples) > 1))
            if len(samples) == 1:  # one sample has no standard deviation
                deviation.fill_(1)
            self.get_buffer(f"mean{level}").copy_(mean[:, None, None])
            self.get_buffer(f"scale{level}").copy_(1 / (deviation[:, None, None] + 1e-4))
        if class_frequencies is not None:
            self.prior.copy_(class_frequencies)

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> EncodedLevels:
        """Return the features of all levels of the backbone."""
        pyramid = self.pyramid(inputs)
        covered = inputs.image.new_empty(inputs.image.shape[0], 0, *pyramid.covered_hw(0))
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
            encoded: result of ``encode``; None computes it.
            target: if it has boxes, every pixel is computed, see ``trained_pixels``.
            draws: random numbers that choose the hidden channels and the computed pixels of a
                training step; None: no channel is hidden, and all pixels are computed.
        """
        if not self.training:
            return self._mixtures(inputs, encoded, [(self.position_weight, self.prior_weight)])[0]
        encoded = encoded or self.encode(inputs)
        position, features = self._project(inputs, encoded, draws)
        pixels = self.trained_pixels(draws, target)
        probability = self._probability(position + features, inputs, encoded, pixels)
        return self._output(probability)

    def trained_pixels(self, draws: Draws | None, target: Target | None) -> PixelGrid | None:
        """Return every ``pixel_step``-th row and column; None (all pixels) if there are boxes."""
        has_boxes = target is not None and target.boxes is not None
        if self.pixel_step == 1 or draws is None or has_boxes or not self.training:
            return None
        first = Draws(draws.seeds[:1])  # the same pixels for all images of a batch
        sides = 2 * (self.pixel_step,) if target is None else target.valid.shape[-2:]
        rows, columns = (
            # the first row is inside the image, even if the step is longer
            int(first.integers(len(self.project) + 1 + axis, 0, min(self.pixel_step, side) - 1))
            for axis, side in enumerate(sides)
        )
        return slice(rows, None, self.pixel_step), slice(columns, None, self.pixel_step)

    def variants(self) -> list[Variant]:
        """Return the compared pairs of ``position_weight`` and ``prior_weight``."""
        return [{"position_weight": a, "prior_weight": c} for a, c in WEIGHTS]

    def forward_variants(
        self, inputs: Inputs, encoded: EncodedLevels | None = None
    ) -> list[Output]:
        """Return the output for every pair of weights, from one pass."""
        return self._mixtures(inputs, encoded, WEIGHTS)

    def use(self, variant: Variant) -> None:
        """Set ``position_weight`` and ``prior_weight``."""
        self.position_weight = variant["position_weight"]
        self.prior_weight = variant["prior_weight"]
        self._restate(dict(variant))

    def _mixtures(
        self, inputs: Inputs, encoded: EncodedLevels | None, weights: Sequence[tuple[float, float]]
    ) -> list[Output]:
        """Return the output for each pair of position weight and prior weight."""
        encoded = encoded or self.encode(inputs)
        position, features = self._project(inputs, encoded)
        whole = self._probability(position + features, inputs, encoded)
        alone: Tensor | float = 0.0
        if any(weight for weight, _ in weights):
            hidden = position + self.get_parameter("project.0.bias")[:, None, None]
            alone = self._probability(hidden, inputs, encoded)
        prior = self.prior[:, None, None]
        return [self._output((1 - a - c) * whole + a * alone + c * prior) for a, c in weights]

    def _project(
        self, inputs: Inputs, encoded: EncodedLevels, draws: Draws | None = None
    ) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "b c h w"]]:
        """Return the projected positions, and the sum of the projected levels (finest size)."""
        grid = encoded.levels[0].shape[-2:]
        sides = zip(grid, inputs.image.shape[-2:], encoded.covered.shape[-2:], strict=True)
        rows, columns = (count * side / covered for count, side, covered in sides)
        features = torch.zeros(())
        with without_autocast(self.out.weight):
            position = self.position(_positions(grid, (rows, columns)).to(self.out.weight))
            for level, project in enumerate(self.project):
                x = encoded.levels[level].float() - self.get_buffer(f"mean{level}")
                if draws is not None:
                    x = x * self._keep_mask(draws, level, x.shape[1]).to(x)
                x = project((x * self.get_buffer(f"scale{level}")).contiguous())
                features = features + functional.interpolate(x, grid, mode="bilinear")
        return position, features

    def _probability(
        self,
        hidden: Maps,
        inputs: Inputs,
        encoded: EncodedLevels,
        pixels: PixelGrid | None = None,
    ) -> Tensor:
        """Return class probabilities at the size of the image, or at some of its pixels."""
        with without_autocast(self.out.weight):
            logits = self.out(functional.gelu(self.mix(functional.gelu(hidden)))).float()
        return self._resize_to_image(logits, encoded.covered, inputs, pixels).softmax(dim=1)

    def _keep_mask(self, draws: Draws, level: int, channels: int) -> Float[Tensor, "b c 1 1"]:
        """Return factors: 0 for hidden channels and images, 1 / (1 - p) for other channels."""
        probabilities = torch.tensor([self.feature_drop_probability, self.image_drop_probability])
        channel_limit, image_limit = torch.special.ndtri(probabilities)
        kept = draws.normal(level, (channels, 1, 1)) > channel_limit
        kept = kept / (1 - self.feature_drop_probability)
        return kept * (draws.normal(len(self.project), (1, 1, 1)) > image_limit)

    @classmethod
    def from_backbone(
        cls, source: BackboneSource, *, timesteps: tuple[int, ...] = (1,), **options: Any
    ) -> MethodBuilder:
        """Return a builder of a head on a frozen vision backbone, or diffusion model without text.

        Args:
            source: the backbone.
            timesteps: timesteps of a diffusion model, which runs once for each of them.
            options: arguments of the constructor.
        """
        backbone = build_pyramid_backbone(source, timesteps)
        if not source.is_diffusion:  # it sees larger images than the embedded diffusion model
            options = {"pixel_step": 4, **options}
        return make_builder(cls, lambda output: cls(output=output, backbone=backbone, **options))

    @classmethod
    def few_shot_settings(cls, source: BackboneSource, output: OutputSpec) -> FitSettings:
        """Return the default settings; for a vision backbone, fewer steps with smaller batches."""
        settings = cls.few_shot_defaults()
        return settings if source.is_diffusion else replace(settings, **VISION_SETTINGS)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with one learning rate and batches of 8."""
        return FitSettings({"": 2e-3}, batch_size=8, max_steps=1500, weight_decay=0.01)


def build_pyramid_backbone(
    source: BackboneSource, timesteps: tuple[int, ...] = (1,)
) -> AbstractBackbone:
    """Return the model of a source as a backbone that maps an image to a pyramid.

    A diffusion model gets the empty prompt. Several models become one backbone (``SideBySide``).

    Args:
        source: the model, or several models.
        timesteps: timesteps of a diffusion model, which runs once for each of them.

    Raises:
        InputError: if a model cannot be loaded.
    """
    if source.parts:
        parts = [build_pyramid_backbone(part, timesteps) for part in source.parts]
        return SideBySide(parts, [part.short_side_px for part in source.parts])
    if not source.is_diffusion:
        return source.vision
    prompts = Unprompted.from_folder(source.folder, source.diffusion.context_dim)
    return Conditioned(source.diffusion, prompts, timesteps=timesteps).eval()


def _positions(grid: Sequence[int], used: tuple[float, float]) -> Float[Tensor, "1 5 h w"]:
    """Return row and column (-1 to 1 over the image), their squares and their product.

    Args:
        grid: rows and columns of the finest level, padding included.
        used: rows and columns of the finest level that the image fills, without padding.
    """
    rows, columns = (
        2 * (torch.arange(count) + 0.5) / filled - 1
        for count, filled in zip(grid, used, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, y * y, x * x, x * y])[None]
