"""DDP: diffusion model for dense visual prediction (Ji et al., ICCV 2023).

An encoder sees the image once. Noise on the label map is then removed step by step by a small
decoder that is given the features, the noisy map and the time (algorithms 1 to 3); the number of
steps is chosen when the model is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, BackboneSource, PretrainedPart
from diffsight.diffusion import (
    AbstractNoise,
    ClassEmbedding,
    CosineNoise,
    EncodingBuilder,
    Sampler,
    ScalarMap,
)
from diffsight.diffusion.noise import LAST_TIME, add_noise
from diffsight.diffusion.sampler import Accumulation, Sampled
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder, TimeEmbedding
from diffsight.methods.base import (
    AbstractMethod,
    Explanation,
    FitSettings,
    MethodBuilder,
    builder_of,
)
from diffsight.methods.feature_head import pyramid_backbone
from diffsight.methods.frozen import pretrained_parts
from diffsight.methods.parts import build_neck
from diffsight.necks import NormalisedFPN
from diffsight.necks.base import NeckBuilder
from diffsight.ops.layers import fcn_head
from diffsight.ops.precision import without_autocast
from diffsight.ops.resize import interpolated
from diffsight.outputs import Classes, Masks, Output, OutputSpec, Values
from diffsight.rig import Rig
from diffsight.types import Draws, Encoded, Inputs, Pyramid, Target

Features = Float[Tensor, "b c fh fw"]
State = Float[Tensor, "b e fh fw"]
Maps = Float[Tensor, "b k _ _"]
TIME, NOISE, FRESH, STEPS = 0, 1, 2, 1000  # streams of random numbers


@dataclass(frozen=True)
class EncodedLevels(Encoded):
    """The pyramid of a frozen backbone.

    Attributes:
        levels: features, finest first; empty if the backbone learns.
        covered: an empty map of the size in image pixels that the finest level covers.
    """

    levels: tuple[Float[Tensor, "b _ _ _"], ...] = ()
    covered: Float[Tensor, "b 0 ph pw"] | None = None


class DDP(AbstractMethod):
    """Denoises a label map under the features of the image.

    Differs from the paper: the decoder is given the log-SNR as its time, a state is brought two
    steps ahead (``Sampler.time_difference``), and a training sees times up to 0.999. All three
    follow the authors' released code, which its checkpoints need.

    Args:
        output: classes, values with bounds, or masks; the task says it.
        backbone: sees the image once.
        neck: builder of what brings its pyramid to one map, such as ``NormalisedFPN``; None: the
            backbone gives one.
        decoder: of the map.
        encoding: builder of the label encoding; None: no diffusion, the decoder alone (the paper's
            baseline).
        noise: over time; default: ``CosineNoise``.
        sampler: how a map is drawn; default: three steps.
        time_input: what the decoder is given, ``log_snr``, or ``time`` as in the code for depth.
        aligned: self-aligned denoising (algorithm 4): the labels of a training are the model's own
            prediction from noise, which is then ``reused`` (released code) or drawn ``fresh``;
            ``off``: the true labels.
        auxiliary: train a second head on the features, of classes.
        freeze_backbone: train neck and decoder alone.
        covers: fraction of a side of the features that an output with a grid of its own covers: 50
            of 51.2 m for the maps of DDP.

    Raises:
        InputError: if parts do not fit together.
    """

    output_kinds = ("classes", "values", "masks")

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: AbstractBackbone,
        neck: NeckBuilder | None,
        decoder: MapDecoder,
        encoding: EncodingBuilder | None,
        noise: AbstractNoise | None = None,
        sampler: Sampler | None = None,
        time_input: Literal["log_snr", "time"] = "log_snr",
        aligned: Literal["off", "reused", "fresh"] = "off",
        auxiliary: bool = True,
        freeze_backbone: bool = False,
        covers: float = 1.0,
    ) -> None:
        super().__init__()
        if output.kind == "values" and output.bounds is None:
            raise InputError("DDP gives values with bounds: set the range of the task")
        if not 0 < covers <= 1:
            raise InputError(f"covers must be more than 0 and at most 1, got {covers:g}")
        self.spec, self.covers = output, covers
        self.backbone = backbone
        if freeze_backbone:
            backbone.requires_grad_(False)
        self.is_frozen = not any(p.requires_grad for p in backbone.parameters())
        self.accepts_steps = encoding is not None
        self.size_multiple = backbone.size_multiple
        self.neck, channels, _ = build_neck(neck, backbone.channels, backbone.strides)
        decoder.check_width(channels, accepts_any=neck is None and encoding is not None)
        self.encoding = None if encoding is None else encoding(output=output)
        low = 0.0 if output.bounds is None else output.bounds[0]
        self.low = low if self.encoding is None else self.encoding.low
        self.noise, self.sampler = noise or CosineNoise(), sampler or Sampler()
        self.time_input: Literal["log_snr", "time"] = time_input
        self.aligned: Literal["off", "reused", "fresh"] = aligned
        self.decoder = decoder
        self.fuse, self.time = None, None
        if self.encoding is not None:
            self.fuse = nn.Conv2d(channels[0] + self.encoding.channels, decoder.width, 1)
            self.time = TimeEmbedding(decoder.time_width or 1024)
        elif decoder.time_width is not None:
            raise InputError("without an encoding there is no time: set time_width to null")
        kernel = 3 if output.kind == "values" else 1
        self.predict = nn.Conv2d(decoder.width, output.channels, kernel, padding=kernel // 2)
        self.auxiliary: nn.Module | None = None
        if auxiliary and output.kind == "classes":
            self.auxiliary = fcn_head(channels[0], output.channels)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        return self

    def check_rig(self, rig: Rig) -> None:
        """Refuse what the backbone does not read, see ``AbstractMethod.check_rig``."""
        self.backbone.check_rig(rig)

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return what the backbone reads, see ``AbstractMethod.example_rig``."""
        return self.backbone.example_rig(hw)

    def frozen(self) -> dict[str, PretrainedPart]:
        """Return the pretrained network of a frozen backbone, by its path."""
        return pretrained_parts(self.backbone, "backbone") if self.is_frozen else {}

    def encode(self, inputs: Inputs) -> EncodedLevels:
        """Return the pyramid of a frozen backbone."""
        if not self.is_frozen:
            return EncodedLevels()
        with torch.no_grad():
            pyramid = self.backbone.of_inputs(inputs)
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
        """Return logits or values of the image's size.

        With a target it is a training step: one random time per image, one pass of the decoder.
        Without one the map is drawn by the sampler, and its uncertainty comes with it.
        """
        hw = self._output_hw(inputs)
        features = self.features(inputs, encoded)
        if draws is None:
            count = len(features)
            seeds = torch.randint(2**31, (count,)).tolist() if self.training else (0,) * count
            draws = Draws(tuple(seeds))
        if target is not None or self.encoding is None:
            return self._trained(features, target, draws, hw)
        return self.sample(features, draws, inputs.steps).to_output(self.spec, hw)

    def explain(self, inputs: Inputs, encoded: EncodedLevels | None = None) -> Explanation:
        """Return the output of one image, that of every step, and where steps and seeds differ."""
        draws, hw = Draws((0,)), self._output_hw(inputs)
        if self.encoding is None:
            return Explanation(self(inputs, encoded, draws=draws))
        features = self.features(inputs, encoded)
        steps, rule = [], replace(self.sampler, steps=1, seeds=1)
        for maps in self.trajectory(features, draws, replace(self.sampler, seeds=1)):
            alone = Accumulation(rule, 1, self.spec.kind, self._origin)
            alone.add(self._within(maps))
            # at the size of the features: many classes at that of the image would fill the memory
            steps.append(alone.result().to_output(self.spec, (maps.shape[-2], maps.shape[-1])))
        found = self.sample(features, draws)
        doubts = {}
        if found.mean is not None and found.square is not None:
            variance = (found.square - found.mean.square()).clamp(min=0).mean(dim=1, keepdim=True)
            doubts["standard deviation"] = interpolated(variance.sqrt(), hw)[0, 0]
        elif found.uncertainty is not None:
            doubts[self.sampler.uncertainty] = interpolated(found.uncertainty, hw)[0, 0]
        return Explanation(found.to_output(self.spec, hw), doubts, steps=tuple(steps))

    def _output_hw(self, inputs: Inputs) -> tuple[int, int]:
        return self.spec.grid or (inputs.image.shape[-2], inputs.image.shape[-1])

    def features(self, inputs: Inputs, encoded: EncodedLevels | None = None) -> Features:
        """Return what the decoder is conditioned on: the joined pyramid, without the padding."""
        hw = (inputs.image.shape[-2], inputs.image.shape[-1])
        if encoded is None or encoded.covered is None:
            pyramid = self.backbone.of_inputs(inputs)
        else:
            covered = (encoded.covered.shape[-2], encoded.covered.shape[-1])
            pyramid = Pyramid(encoded.levels, self.backbone.strides, hw, covered)
        (joined,) = (pyramid if self.neck is None else self.neck(pyramid)).features
        if self.spec.grid is not None:
            return joined
        grid, covered = joined.shape[-2:], pyramid.covered_hw(0)
        rows, columns = (-(-n * g // c) for n, g, c in zip(hw, grid, covered, strict=True))
        return joined[..., :rows, :columns]

    def sample(self, features: Features, draws: Draws, steps: int | None = None) -> Sampled:
        """Return the maps of a batch at the size of the features, and their uncertainty.

        Args:
            features: of the images.
            draws: the noise of each image.
            steps: in place of the sampler's own number.

        Raises:
            InputError: if the sampler waits for classes to settle, and there are none.
        """
        rule = self.sampler if steps is None else replace(self.sampler, steps=steps)
        result = Accumulation(rule, len(features), self.spec.kind, self._origin)
        for maps in self.trajectory(features, draws, rule):
            if not result.add(self._within(maps)):
                break
        return result.result()

    def trajectory(self, features: Features, draws: Draws, rule: Sampler) -> Iterator[Maps]:
        """Yield what is predicted in every step, for all seeds, one after another.

        Raises:
            InputError: as ``sample``.
        """
        if rule.settled is not None and self.spec.kind == "values":
            raise InputError(
                "settled counts pixels that change their class: leave it out of values"
            )

        def normal(stream: int, per_seed: int) -> State:
            rows = (self._normal(features, draws, stream + per_seed * r) for r in range(rule.seeds))
            return torch.cat(list(rows))

        repeated = features.repeat(rule.seeds, 1, 1, 1)
        yield from rule.trajectory(
            self.noise,
            normal(NOISE, 2),
            lambda noisy, time: self._decoded(repeated, noisy, time),
            lambda maps: self._encoded(maps, repeated),
            lambda step: normal(STEPS + step, STEPS),
        )

    @property
    def _origin(self) -> float:
        """What values are counted from."""
        return 0.0 if self.spec.bounds is None else (self.low + self.spec.bounds[1]) / 2

    def _denoised(self, features: Features, target: Target, draws: Draws) -> Maps:
        """Return the prediction from one state of the labels, or of the model's own prediction."""
        assert self.encoding is not None
        hw = (features.shape[-2], features.shape[-1])
        normal = self._normal(features, draws, NOISE)
        if self.aligned == "off":
            encoded = self.encoding.of_target(target, hw)
        else:
            with torch.no_grad():
                first = self._decoded(features, normal, torch.ones(len(features)).to(normal))
            encoded = self._encoded(first, features)
            if self.aligned == "fresh":
                normal = self._normal(features, draws, FRESH)
        time = (draws.uniform(TIME) * LAST_TIME).to(normal)  # 8 bits would move it
        return self._decoded(features, add_noise(self.noise, encoded, normal, time), time)

    def _decoded(self, features: Features, state: State | None, time: Tensor | None) -> Maps:
        """Return logits, or values above the lower bound, at the size of the features."""
        vector = None
        if state is not None and time is not None:
            assert self.fuse is not None
            assert self.time is not None
            known = self.noise.log_snr(time) if self.time_input == "log_snr" else time
            features = self.fuse(torch.cat([features, state.to(features.dtype)], dim=1))
            vector = self.time(known)
        decoded = self.decoder(self._on_grid(features), vector)
        with without_autocast(decoded):  # the argmax of numbers of 8 bits would have ties
            maps = self.predict(decoded.to(self.predict.weight.dtype))
        if self.spec.bounds is None:
            return maps
        return maps.relu() + self.low

    def _on_grid(self, features: Features) -> Float[Tensor, "b c _ _"]:
        """Return the features on the output's own grid, if it has one (bilinear)."""
        if self.spec.grid is None:
            return features
        y, x = (
            (2 * torch.arange(n, device=features.device) + 1 - n) / n * self.covers
            for n in self.spec.grid
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(features)
        rows = grid.expand(len(features), -1, -1, -1)
        return functional.grid_sample(features, rows, mode="bilinear", align_corners=False)

    def _encoded(self, maps: Maps, features: Features) -> State:
        assert self.encoding is not None
        return self.encoding.of_prediction(maps, (features.shape[-2], features.shape[-1]))

    def _normal(self, features: Features, draws: Draws, stream: int) -> State:
        assert self.encoding is not None
        shape = (self.encoding.channels, features.shape[-2], features.shape[-1])
        return draws.normal(stream, shape).to(features.device)

    def _trained(
        self, features: Features, target: Target | None, draws: Draws, hw: tuple[int, int]
    ) -> Output:
        """Return the output of one pass of the decoder, at the size of the image."""
        if self.encoding is None:
            maps = self._decoded(features, None, None)
        else:
            assert target is not None
            maps = self._denoised(features, target, draws)
        if self.spec.bounds is not None:
            return Values(interpolated(self._within(maps) if target is None else maps, hw))
        if self.spec.kind == "masks":
            return Masks(interpolated(maps, hw))
        output = Classes(interpolated(maps, hw))
        if self.auxiliary is None or not self.training:
            return output
        return replace(output, auxiliary=interpolated(self.auxiliary(features), hw))

    def _within(self, maps: Maps) -> Maps:
        """Return values cut to their bounds; logits as they are."""
        return maps if self.spec.bounds is None else maps.clamp(self.low, self.spec.bounds[1])

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> MethodBuilder:
        """Return a builder of a DDP on a frozen backbone.

        On Stable Diffusion and the networks of the hub neck and decoder are the authors', on the
        models of the package small ones, which learn faster from about ten images.

        Args:
            source: of the backbone.
            options: of the constructor.
        """

        def make(output: OutputSpec) -> AbstractMethod:
            is_small = all(part.is_embedded for part in source.parts or (source,))
            width = 64 if is_small else 256
            sizes = {"layers": 3, "hidden": 128, "time_width": 128} if is_small else {}
            is_class = output.kind == "classes"
            parts: dict[str, Any] = {
                "neck": partial(NormalisedFPN, width=width),
                "decoder": MapDecoder(width=width, **sizes),
                "encoding": partial(ClassEmbedding, width=width) if is_class else ScalarMap,
                "auxiliary": False,
                "freeze_backbone": True,
            }
            backbone = pyramid_backbone(source)
            return cls(output=output, backbone=backbone, **{**parts, **options})

        return builder_of(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return AdamW with one rate and the authors' decay, batches of 8."""
        return FitSettings({"": 1e-3}, batch_size=8, max_steps=600, weight_decay=0.01)
