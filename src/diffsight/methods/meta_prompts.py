"""Meta Prompts: harnessing diffusion models for visual perception (Wan et al., 2023).

Learnable prompts condition the UNet (section 3.2). It runs several times, each time on the output
of the previous pass, with a learnable embedding instead of the timestep embedding (section 3.4).
The features of the last pass are multiplied with the prompts, which gives one map per prompt
(section 3.3). The main recipes use these parts:

* depth: ``LearnedTokens`` with an adapter, one set for each pass, ``Fused`` and ``DeconvHead``;
* segmentation: one set of ``LearnedTokens`` for all passes, ``PerLevel`` and ``UPerHead``;
* pose: one set for all passes, ``Fused`` and ``HeatmapHead`` (our choice: no released model).
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.attention_maps import MapRecorder, MapRequest
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, HeatmapHead, UPerHead
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import (
    AbstractMethod,
    Explanation,
    FitSettings,
    MethodBuilder,
    make_builder,
)
from diffsight.methods.parts import (
    EncodedLatent,
    encode_latent,
    pad,
    require_fitting_text,
)
from diffsight.methods.vpd import VPD
from diffsight.necks import Fused, PerLevel
from diffsight.necks.rearrangement import RearrangementBuilder
from diffsight.ops.resize import resize_image, resize_maps
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import AbstractPrompt, LearnedTokens
from diffsight.types import Draws, Images, Inputs, Pyramid, Target

TIMESTEP = 1  # timestep of the pretrained time embedding, for time="fixed"
FEW_SHOT_PROMPTS = 32  # default number of prompts for the embedded model
PASSES = 3  # default number of passes of the UNet


class MetaPrompts(AbstractMethod):
    """A UNet that runs several times with learnable prompts; its features are multiplied by them.

    Differs from the paper: the latent is the posterior's mode without Stable Diffusion's scale
    factor, only the last pass's features are used, and an embedding replaces the whole time
    embedding network. All three follow the authors' released code, and their checkpoints need it.

    Args:
        output: specification of the output; the task sets it.
        backbone: Stable Diffusion with ``conv_out`` (if there are several passes) and
            ``resize_skips``.
        prompts: one set of prompts for all passes, or one for each pass.
        head: builder of the head.
        rearrange: builder of the neck that multiplies features and prompts; None passes the UNet's
            own features to the head (a row of the paper's table 5).
        passes: number of passes of the UNet (``refine_step`` of the released code).
        time: ``learned`` trains an embedding for each pass; ``fixed`` uses the pretrained embedding
            of timestep 1 (our reading of the row without modulated time in table 5).
        backpropagation: ``full`` through all passes, or ``truncated`` to the last one.
        enlarge_by: images are resized to sides of ``(side // 64 + enlarge_by) * 64`` pixels, where
            64 is the coarsest stride (depth: 1 for NYU, 2 for KITTI); None pads them instead, to
            the coarsest stride unless the head resizes its output.

    Raises:
        InputError: if the backbone lacks a part that is needed, or the numbers or widths of the
            prompts do not fit.
    """

    output_kinds = ("values", "classes", "heatmaps")
    accepts_prompt = True

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: StableDiffusion,
        prompts: Sequence[AbstractPrompt],
        head: HeadBuilder,
        rearrange: RearrangementBuilder | None = None,
        passes: int = PASSES,
        time: Literal["learned", "fixed"] = "learned",
        backpropagation: Literal["full", "truncated"] = "full",
        enlarge_by: int | None = None,
    ) -> None:
        super().__init__()
        if passes < 1 or len(prompts) not in (1, passes):
            raise InputError(
                f"{passes} passes and {len(prompts)} sets of prompts: give one set, or one for "
                "each pass"
            )
        if passes > 1 and not backbone.has_output_head:
            raise InputError(
                f"{passes} passes need the UNet's output head: set conv_out of the backbone to true"
            )
        if time == "fixed" and not backbone.has_time_embedding:
            raise InputError(
                "time='fixed' needs the UNet's time embedding: set time_embedding of the backbone "
                "to true"
            )
        for one in prompts:
            require_fitting_text(one, backbone)
        self.backbone = backbone
        self.prompts = nn.ModuleList(prompts)
        self.passes = passes
        self.times: nn.ParameterList | None = None
        if time == "learned":
            shape = (1, backbone.embedding_dim)
            self.times = nn.ParameterList(nn.Parameter(torch.randn(shape)) for _ in range(passes))
        self.backpropagation = backpropagation
        self.enlarge_by = enlarge_by
        self.uses_noise = backbone.latent == "sample"
        self.requires_prompt = any(one.requires_text for one in prompts)
        self.ignores_text = not any(one.reads_text or one.requires_text for one in prompts)
        channels, strides = backbone.channels, backbone.strides
        self.rearrange = None
        if rearrange is not None:
            size = {"prompts": prompts[-1].num_tokens, "dim": prompts[-1].dim}
            self.rearrange = rearrange(in_channels=channels, strides=strides, **size)
            channels, strides = self.rearrange.out_channels, self.rearrange.out_strides
        self.head = head(in_channels=channels, strides=strides, output=output)
        self.size_multiple = self._padding_multiple()

    def _padding_multiple(self) -> int:
        """Return the multiple of pixels to which images are padded; 1 if they are resized."""
        if self.enlarge_by is not None:
            return 1
        is_free = self.head.resizes_output
        return self.backbone.size_multiple if is_free else self.backbone.strides[-1]

    def encode(self, inputs: Inputs) -> EncodedLatent:
        """Return the latent; it is None if it is sampled in every pass or the VAE is trained."""
        return EncodedLatent(self._latent(inputs) if self.backbone.latent_is_fixed else None)

    def forward(
        self,
        inputs: Inputs,
        encoded: EncodedLatent | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the output for images of any size, from the features of the last pass."""
        height, width = inputs.image.shape[-2:]
        latent = encoded.latent if encoded is not None else None
        if latent is None:
            latent = self._latent(inputs, draws)
        features, prompts = self.refine(inputs, latent)
        size = self._working_hw(height, width)
        pyramid = Pyramid(features, self.backbone.strides, (height, width), size)
        if self.rearrange is not None:
            pyramid = self.rearrange(pyramid, prompts)
        if self.enlarge_by is None:
            return self.head(pyramid).cropped(height, width)
        small = tuple(
            resize_maps(x, (max(1, height // stride), max(1, width // stride)))
            for x, stride in zip(pyramid.features, pyramid.strides, strict=True)
        )
        output = self.head(Pyramid(small, pyramid.strides, (height, width)))
        if output.hw == (height, width):
            return output
        return output.with_stack(resize_maps(output.stack, (height, width)))

    def refine(
        self, inputs: Inputs, latent: Float[Tensor, "b c lh lw"], recorder: Any = None
    ) -> tuple[tuple[Float[Tensor, "b _ _ _"], ...], Float[Tensor, "b n e"]]:
        """Return the features and the condition of the last pass of the UNet.

        Args:
            inputs: images and prompts.
            latent: scaled latents of the resized or padded images.
            recorder: records the attention layers of the last pass.
        """
        timesteps = torch.full((latent.shape[0],), TIMESTEP, device=latent.device)
        last = self.passes - 1
        for number in range(last):
            prompts = self._condition(inputs, number)
            embedding = self._embedding(latent, number)
            features = self.backbone.features(latent, prompts, timesteps, embedding=embedding)
            finest = features[0]
            if self.backpropagation == "truncated":
                finest = finest.detach()
            latent = self.backbone.sample(finest)
        prompts, embedding = self._condition(inputs, last), self._embedding(latent, last)
        features = self.backbone.features(latent, prompts, timesteps, recorder, embedding=embedding)
        return features, prompts

    def _condition(self, inputs: Inputs, number: int) -> Float[Tensor, "b n e"]:
        return self.prompts[number if len(self.prompts) > 1 else 0](inputs)

    def _embedding(self, latent: Tensor, number: int) -> Float[Tensor, "b e"] | None:
        if self.times is None:
            return None
        return self.times[number].to(latent.dtype).repeat(latent.shape[0], 1)

    def _working_hw(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels at which the backbone reads an image."""
        if self.enlarge_by is not None:
            block = self.backbone.strides[-1]
            return (
                (height // block + self.enlarge_by) * block,
                (width // block + self.enlarge_by) * block,
            )
        multiple = self.size_multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def _resize_or_pad(self, image: Images) -> Float[Tensor, "b 3 ph pw"]:
        if self.enlarge_by is None:
            return pad(image, self.size_multiple)
        height, width = image.shape[-2:]
        return resize_maps(image, self._working_hw(height, width))

    def _latent(self, inputs: Inputs, draws: Draws | None = None) -> Float[Tensor, "b c lh lw"]:
        image = self._resize_or_pad(inputs.image)
        return encode_latent(self.backbone, image, inputs.latents, draws)

    def check_prompt(self, text: str | None) -> None:
        """Refuse a missing sentence if the prompts need one, and a sentence that is too long."""
        super().check_prompt(text)
        if text is not None:
            for one in self.prompts.children():
                assert isinstance(one, AbstractPrompt)
                one.check(text)

    def example_text(self) -> Tensor | None:
        """Return the placeholder of ``prompts``, see ``AbstractMethod.example_text``."""
        prompts = (one for one in self.prompts.children() if isinstance(one, AbstractPrompt))
        return next((one.placeholder() for one in prompts if one.requires_text), None)

    def explain(self, inputs: Inputs, encoded: EncodedLatent | None = None) -> Explanation:
        """Return the output of one image, with two maps of every prompt from the last pass.

        ``maps`` is the attention to the prompts, averaged over the layers of the decoder.
        ``rearranged`` is the product of the features with the prompts (the paper's figures 3 to 6):
        the maps of every level are enlarged to the image and scaled to the range from 0 to 1, and
        their mean over the levels is scaled again. It is empty if the features are not multiplied
        with the prompts.
        """
        output = self(inputs, encoded, draws=Draws((0,)))
        request = MapRequest(self.backbone.map_levels(("up",)), ("up",))
        recorder = MapRecorder(request)
        features, prompts = self.refine(inputs, self._latent(inputs, Draws((0,))), recorder)
        height, width = inputs.image.shape[-2:]
        attention = self._mean_map(recorder.close().values(), height, width)
        levels: Iterable[Tensor] = ()
        if self.rearrange is not None and self.rearrange.multiplies:
            size = self._working_hw(height, width)
            pyramid = Pyramid(features, self.backbone.strides, (height, width), size)
            levels = self.rearrange(pyramid, prompts).features
        rearranged = self._mean_map(levels, height, width, is_scaled=True)
        return Explanation(output, _by_prompt(attention), rearranged=_by_prompt(rearranged))

    def _mean_map(
        self,
        levels: Iterable[Float[Tensor, "1 n _ _"]],
        height: int,
        width: int,
        *,
        is_scaled: bool = False,
    ) -> Float[Tensor, "n h w"]:
        """Return the mean of the levels' maps at the size of the image.

        Args:
            levels: maps of each level, which cover the working size.
            height: height of the image.
            width: width of the image.
            is_scaled: scale each map of each level, and each mean, to the range from 0 to 1.
        """
        size, maps = self._working_hw(height, width), []
        for level in levels:
            one = resize_image(level.float(), size)
            if self.enlarge_by is None:
                one = one[..., :height, :width]
            else:
                one = resize_image(one, (height, width))
            maps.append(_scaled(one[0]) if is_scaled else one[0])
        if not maps:
            return torch.zeros(0, height, width)
        mean = torch.stack(maps).mean(dim=0)
        return _scaled(mean) if is_scaled else mean

    @classmethod
    def infer_arguments(cls, names: Collection[str]) -> Mapping[str, int | None]:
        """Return ``passes``: the number of time embeddings, or of sets of prompts if several."""
        times, sets = (
            len({name.split(".")[1] for name in names if name.startswith(f"{part}.")})
            for part in ("times", "prompts")
        )
        return {"passes": times or (sets if sets > 1 else None)}

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether the backbone is a diffusion model."""
        return source.is_diffusion

    @classmethod
    def from_backbone(
        cls, source: BackboneSource, *, gradient_checkpointing: bool = False, **options: Any
    ) -> MethodBuilder:
        """Return a builder of Meta Prompts whose UNet is trained.

        With Stable Diffusion, prompts, neck and head have the authors' sizes; with the embedded
        model they are small.

        Args:
            source: Stable Diffusion; every built method gets its own copy.
            gradient_checkpointing: recompute the UNet in the backward pass, to save memory.
            options: arguments of the constructor.
        """

        def make(output: OutputSpec) -> AbstractMethod:
            scale = {} if source.is_embedded else {"latent_scale": 1.0}
            backbone = source.fresh_diffusion(
                trainable=("unet",),
                gradient_checkpointing=gradient_checkpointing,
                conv_out=options.get("passes", PASSES) > 1,
                time_embedding=options.get("time") == "fixed",
                resize_skips=True,
                **scale,
            )
            count = FEW_SHOT_PROMPTS if source.is_embedded else 150
            tokens = LearnedTokens(count, dim=backbone.context_dim)
            width = 64 if source.is_embedded else 512
            heads: dict[str, Any] = {
                "rearrange": PerLevel,
                "head": partial(UPerHead, width=width),
            }
            if output.kind == "heatmaps":
                heads = {
                    "rearrange": Fused,
                    "head": partial(HeatmapHead, width=64 if source.is_embedded else 256),
                }
            elif output.kind == "values":
                wide = 32 if source.is_embedded else 192
                doublings = int(math.log2(backbone.strides[0]))
                heads = {
                    "rearrange": Fused,
                    "head": partial(DeconvHead, widths=(32,) * doublings, width=wide),
                }
            parts = {"prompts": [tokens], **heads}
            return cls(output=output, backbone=backbone, **{**parts, **options})

        return make_builder(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return the settings of VPD, because the authors of both papers train alike."""
        return VPD.few_shot_defaults()

    @classmethod
    def few_shot_settings(cls, source: BackboneSource, output: OutputSpec) -> FitSettings:
        """Return the settings of VPD for a backbone and an output."""
        return VPD.few_shot_settings(source, output)


def _by_prompt(maps: Float[Tensor, "n h w"]) -> dict[str, Float[Tensor, "h w"]]:
    return {f"prompt {i + 1}": one for i, one in enumerate(maps)}


def _scaled(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Return the maps with a minimum of 0 and a maximum of 1; constant maps become 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)
