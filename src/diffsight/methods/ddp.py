"""DDP: diffusion model for dense visual prediction (Ji et al., ICCV 2023).

An encoder runs once per image. A small decoder then removes the noise of a label map step by step.
It reads the image features, the noisy map and the time (algorithms 1 to 3). The number of steps can
be chosen for each prediction.
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
    lowest_value,
)
from diffsight.diffusion.noise import LAST_TIME, add_noise
from diffsight.diffusion.sampler import SamplingResult, StepAccumulator
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder, TimeEmbedding
from diffsight.methods.base import (
    AbstractMethod,
    Explanation,
    FitSettings,
    MethodBuilder,
    make_builder,
)
from diffsight.methods.feature_head import build_pyramid_backbone
from diffsight.methods.frozen import pretrained_parts
from diffsight.methods.parts import build_neck
from diffsight.necks import NormalisedFPN
from diffsight.necks.base import NeckBuilder
from diffsight.ops.layers import fcn_head
from diffsight.ops.precision import without_autocast
from diffsight.ops.resize import resize_maps
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
        levels: features, finest first; empty if the backbone is trained.
        covered: an empty tensor with the height and width of the image pixels that the finest level
            covers.
    """

    levels: tuple[Float[Tensor, "b _ _ _"], ...] = ()
    covered: Float[Tensor, "b 0 ph pw"] | None = None


class DDP(AbstractMethod):
    """A method that denoises a label map, conditioned on the features of the image.

    Differs from the paper: the decoder reads the log-SNR instead of the time, the sampler moves a
    state two steps ahead (``Sampler.time_difference``), and training uses times up to 0.999. All
    three follow the authors' released code, and their checkpoints need it.

    Args:
        output: specification of classes, values with bounds, or masks; the task sets it.
        backbone: encoder, which runs once per image.
        neck: builder of the neck that turns the pyramid into one map, such as ``NormalisedFPN``;
            None if the backbone returns one map.
        decoder: decoder of the noisy map.
        encoding: builder of the label encoding; None trains the decoder without diffusion (the
            paper's baseline).
        noise: noise schedule; default: ``CosineNoise``.
        sampler: sampling of a map; default: three steps.
        time_input: input of the decoder: ``log_snr``, or ``time`` as in the authors' depth code.
        aligned: self-aligned denoising (algorithm 4). ``off`` adds noise to the true labels.
            Otherwise noise is added to the model's own prediction from pure noise: the same noise
            (``reused``, as in the released code), or new noise (``fresh``).
        auxiliary: train a second head on the features, for an output of classes.
        freeze_backbone: train only neck and decoder.
        covers: fraction of a side of the features that the output's own grid covers: 50 of 51.2 m
            for the bird's-eye-view maps of DDP.

    Raises:
        InputError: if ``covers`` is out of range, or the parts do not fit together.
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
            raise InputError(
                "DDP needs bounds for values: set the task's value range, or choose another method"
            )
        if not 0 < covers <= 1:
            raise InputError(f"covers must be more than 0 and at most 1, got {covers:g}")
        self.spec, self.covers = output, covers
        self.backbone = backbone
        if freeze_backbone:
            backbone.requires_grad_(False)
        self.is_frozen = not any(p.requires_grad for p in backbone.parameters())
        self.accepts_steps = self.uses_noise = encoding is not None
        self.size_multiple = backbone.size_multiple
        self.neck, channels, _ = build_neck(neck, backbone.channels, backbone.strides)
        decoder.check_width(channels, accepts_any=neck is None and encoding is not None)
        self.encoding = None if encoding is None else encoding(output=output)
        self.low = lowest_value(output) if self.encoding is None else self.encoding.low
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
        is_class = output.kind == "classes"
        if is_class:
            nn.init.xavier_uniform_(self.predict.weight)
        self.auxiliary = fcn_head(channels[0], output.channels) if auxiliary and is_class else None

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the trainable parts; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        return self

    def check_rig(self, rig: Rig) -> None:
        """Refuse a rig that the backbone cannot read, see ``AbstractMethod.check_rig``."""
        self.backbone.check_rig(rig)

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return the placeholder of the backbone, see ``AbstractMethod.example_rig``."""
        return self.backbone.example_rig(hw)

    def frozen(self) -> dict[str, PretrainedPart]:
        """Return the pretrained networks of a frozen backbone, by their attribute paths."""
        return pretrained_parts(self.backbone, "backbone") if self.is_frozen else {}

    def encode(self, inputs: Inputs) -> EncodedLevels:
        """Return the pyramid of a frozen backbone; it is empty if the backbone is trained."""
        if not self.is_frozen:
            return EncodedLevels()
        with torch.no_grad():
            pyramid = self.backbone.forward_inputs(inputs)
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
        """Return logits or values at the size of the image, or on the output's own grid.

        With a target, the decoder runs once per image at a random time, as in a training step.
        Without a target, the sampler draws the map and its uncertainty.
        """
        hw = self._output_hw(inputs)
        features = self.features(inputs, encoded)
        if draws is None:
            count = len(features)
            seeds = torch.randint(2**31, (count,)).tolist() if self.training else (0,) * count
            draws = Draws(tuple(seeds))
        if target is not None or self.encoding is None:
            return self._decode_once(features, target, draws, hw)
        return self.sample(features, draws, inputs.steps).to_output(self.spec, hw)

    def explain(self, inputs: Inputs, encoded: EncodedLevels | None = None) -> Explanation:
        """Return the output of one image, the output of every step, and an uncertainty map."""
        draws, hw = Draws((0,)), self._output_hw(inputs)
        if self.encoding is None:
            return Explanation(self(inputs, encoded, draws=draws))
        features = self.features(inputs, encoded)
        steps, rule = [], replace(self.sampler, steps=1, seeds=1)
        for maps in self.trajectory(features, draws, replace(self.sampler, seeds=1)):
            alone = StepAccumulator(rule, 1, self.spec.kind, self._origin)
            alone.add(self._clamp(maps))
            # at the size of the features: at the size of the image, many classes need much memory
            steps.append(alone.result().to_output(self.spec, (maps.shape[-2], maps.shape[-1])))
        sampled = self.sample(features, draws)
        maps_by_name = {}
        if sampled.mean is not None and sampled.square is not None:
            variance = (sampled.square - sampled.mean.square()).clamp(min=0)
            deviation = variance.mean(dim=1, keepdim=True).sqrt()
            maps_by_name["standard deviation"] = resize_maps(deviation, hw)[0, 0]
        elif sampled.uncertainty is not None:
            uncertainty = resize_maps(sampled.uncertainty, hw)[0, 0]
            maps_by_name[self.sampler.uncertainty] = uncertainty
        return Explanation(sampled.to_output(self.spec, hw), maps_by_name, steps=tuple(steps))

    def _output_hw(self, inputs: Inputs) -> tuple[int, int]:
        return self.spec.grid or (inputs.image.shape[-2], inputs.image.shape[-1])

    def features(self, inputs: Inputs, encoded: EncodedLevels | None = None) -> Features:
        """Return the features that condition the decoder: the neck's map, without padding."""
        hw = (inputs.image.shape[-2], inputs.image.shape[-1])
        if encoded is None or encoded.covered is None:
            pyramid = self.backbone.forward_inputs(inputs)
        else:
            covered = (encoded.covered.shape[-2], encoded.covered.shape[-1])
            pyramid = Pyramid(encoded.levels, self.backbone.strides, hw, covered)
        (joined,) = (pyramid if self.neck is None else self.neck(pyramid)).features
        if self.spec.grid is not None:
            return joined
        grid, covered = joined.shape[-2:], pyramid.covered_hw(0)
        rows, columns = (-(-n * g // c) for n, g, c in zip(hw, grid, covered, strict=True))
        return joined[..., :rows, :columns]

    def sample(self, features: Features, draws: Draws, steps: int | None = None) -> SamplingResult:
        """Return the maps of a batch at the size of the features, and their uncertainty.

        Args:
            features: features of the images.
            draws: random numbers of each image's noise.
            steps: number of steps; default: that of the sampler.

        Raises:
            InputError: if ``Sampler.settled`` is set although the output has no classes.
        """
        rule = self.sampler if steps is None else replace(self.sampler, steps=steps)
        result = StepAccumulator(rule, features.shape[0], self.spec.kind, self._origin)
        for maps in self.trajectory(features, draws, rule):
            if not result.add(self._clamp(maps)):
                break
        return result.result()

    def trajectory(self, features: Features, draws: Draws, rule: Sampler) -> Iterator[Maps]:
        """Yield the prediction of every step; its rows are the batch of each seed in turn.

        Raises:
            InputError: if ``settled`` is set although the output has no classes.
        """
        if rule.settled is not None and self.spec.kind == "values":
            raise InputError(
                "settled counts pixels that change their class: leave it out for values"
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
        """Centre of the value range; it is subtracted before values are squared, for precision."""
        return 0.0 if self.spec.bounds is None else (self.low + self.spec.bounds[1]) / 2

    def _denoised(self, features: Features, target: Target, draws: Draws) -> Maps:
        """Return the prediction from noised labels, or from the noised prediction (``aligned``)."""
        assert self.encoding is not None
        hw = (features.shape[-2], features.shape[-1])
        normal = self._normal(features, draws, NOISE)
        if self.aligned == "off":
            encoded = self.encoding.encode_target(target, hw)
        else:
            with torch.no_grad():
                first = self._decoded(features, normal, torch.ones(len(features)).to(normal))
            encoded = self._encoded(first, features)
            if self.aligned == "fresh":
                normal = self._normal(features, draws, FRESH)
        time = (draws.uniform(TIME) * LAST_TIME).to(normal)  # not rounded to bfloat16
        return self._decoded(features, add_noise(self.noise, encoded, normal, time), time)

    def _decoded(self, features: Features, state: State | None, time: Tensor | None) -> Maps:
        """Return logits, or values above the lower bound, from one pass of the decoder."""
        vector = None
        if state is not None and time is not None:
            assert self.fuse is not None
            assert self.time is not None
            moment = self.noise.log_snr(time) if self.time_input == "log_snr" else time
            features = self.fuse(torch.cat([features, state.to(features.dtype)], dim=1))
            vector = self.time(moment)
        decoded = self.decoder(self._on_grid(features), vector)
        with without_autocast(decoded):  # in bfloat16 the argmax would have ties
            maps = self.predict(decoded.to(self.predict.weight.dtype))
        return maps if self.spec.bounds is None else maps.relu() + self.low

    def _on_grid(self, features: Features) -> Float[Tensor, "b c _ _"]:
        """Return the features, resampled (bilinear) to the output's own grid if it has one."""
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
        return self.encoding.encode_prediction(maps, (features.shape[-2], features.shape[-1]))

    def _normal(self, features: Features, draws: Draws, stream: int) -> State:
        assert self.encoding is not None
        shape = (self.encoding.channels, features.shape[-2], features.shape[-1])
        return draws.normal(stream, shape).to(features.device)

    def _decode_once(
        self, features: Features, target: Target | None, draws: Draws, hw: tuple[int, int]
    ) -> Output:
        """Return the output of one pass of the decoder at the size ``hw``."""
        if self.encoding is None:
            maps = self._decoded(features, None, None)
        else:
            assert target is not None
            maps = self._denoised(features, target, draws)
        if self.spec.bounds is not None:
            return Values(resize_maps(self._clamp(maps) if target is None else maps, hw))
        if self.spec.kind == "masks":
            return Masks(resize_maps(maps, hw))
        output = Classes(resize_maps(maps, hw))
        if self.auxiliary is None or not self.training:
            return output
        return replace(output, auxiliary=resize_maps(self.auxiliary(features), hw))

    def _clamp(self, maps: Maps) -> Maps:
        """Return values clamped to their bounds, and logits unchanged."""
        return maps if self.spec.bounds is None else maps.clamp(self.low, self.spec.bounds[1])

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> MethodBuilder:
        """Return a builder of a DDP on a frozen backbone.

        For Stable Diffusion and networks of the hub, neck and decoder have the authors' sizes. For
        models that come with the package they are small, which trains faster on about ten images.

        Args:
            source: the backbone.
            options: arguments of the constructor.
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
            backbone = build_pyramid_backbone(source)
            return cls(output=output, backbone=backbone, **{**parts, **options})

        return make_builder(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with one learning rate, the authors' weight decay and batches of 8."""
        return FitSettings({"": 1e-3}, batch_size=8, max_steps=600, weight_decay=0.01)
