"""FewShot: diffusion models are few-shot learners for dense vision tasks (ICLR 2025 submission).

Stable Diffusion stays frozen. One trainable vector per class (a concept) replaces the text (section
3.3). A label codebook defines the value of each class in an image (section 3.4).
"""

import functools
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones import BackboneSource, ClipVision, PretrainedPart, StableDiffusion
from diffsight.backbones.base import TIMESTEPS
from diffsight.backbones.concept_maps import ConceptRecorder, ConceptRequest, resize_contiguous
from diffsight.backbones.source import CLIP
from diffsight.errors import InputError, suggest
from diffsight.heads.codebook import Codebook
from diffsight.methods.base import (
    AbstractMethod,
    Explanation,
    FitSettings,
    MethodBuilder,
    make_builder,
)
from diffsight.methods.parts import encode_latent, pad
from diffsight.outputs import Classes, Distribution, Output, OutputSpec, expectation
from diffsight.prompts.concept import Concepts
from diffsight.types import Draws, Encoded, Inputs, Target

log = logging.getLogger(__name__)
NOISE, TIMESTEP = 0, 1  # streams of random numbers
MIN_SUM = 1e-8  # smallest sum of the maps over the classes, by which they are divided
TABLES = 10  # default number of tables of the codebook, if a CLIP model is available (section 4)


@dataclass(frozen=True)
class FewShotEncoded(Encoded):
    """The frozen, noise-free features of images.

    Attributes:
        latent: latents of the padded images.
        image_features: CLIP features of the images, for a codebook of several tables.
    """

    latent: Float[Tensor, "b c lh lw"]
    image_features: Float[Tensor, "b f"] | None = None


class FewShot(AbstractMethod):
    """A method that predicts a distribution over classes at every pixel, and its expected value.

    Args:
        output: specification of a distribution, or of classes; each class has a concept.
        backbone: Stable Diffusion; this class freezes it. Its latents need the scale that the UNet
            was trained with.
        codebook: number of tables of class values in the label codebook of a distribution. 0 keeps
            the fixed values of the classes, 1 trains one table for all images, more need
            ``vision``.
        vision: CLIP model whose image features determine the weights of the tables in an image.
        maps: how attention layers are combined into maps of the concepts.
        concept_std: standard deviation of the concepts' random initial values.
        train_timesteps: range of the timestep in training, both ends included.
        timestep: timestep in prediction.

    Raises:
        InputError: if the codebook has several tables, but there is no ``vision``, or a timestep is
            out of range.
    """

    output_kinds = ("distribution", "classes")
    uses_noise = True

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: StableDiffusion,
        codebook: int = 1,
        vision: ClipVision | None = None,
        maps: ConceptRequest | None = None,
        concept_std: float = 1.0,
        train_timesteps: tuple[int, int] = (5, 200),
        timestep: int = 200,
    ) -> None:
        super().__init__()
        low, high = train_timesteps
        if not 0 <= low <= high < TIMESTEPS:
            raise InputError(
                f"train_timesteps {low}, {high}: give the first and the last timestep, from 0 to "
                f"{TIMESTEPS - 1}"
            )
        if not 0 <= timestep < TIMESTEPS:
            raise InputError(f"timestep {timestep}: give a whole number from 0 to {TIMESTEPS - 1}")
        if codebook > 1 and vision is None and output.codec is not None:
            raise InputError(
                f"a codebook of {codebook} tables needs CLIP features to mix them: give vision"
            )
        self.spec = output
        self.backbone = backbone.requires_grad_(False)
        self.size_multiple = backbone.size_multiple
        self.vision = vision if output.codec is not None and codebook > 1 else None
        self.codebook: Codebook | None = None
        if output.codec is not None:
            width = self.vision.width if self.vision else None
            self.codebook = Codebook(output.codec, size=codebook, features=width)
        self.concepts = Concepts(output.channels, dim=backbone.context_dim, std=concept_std)
        self.maps = maps or ConceptRequest()
        self.train_timesteps = train_timesteps
        self.timestep = timestep

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> FewShotEncoded:
        """Return the latents, and the CLIP features if the codebook needs them."""
        image = pad(inputs.image, self.backbone.size_multiple)
        latent = encode_latent(self.backbone, image, inputs.latents)
        return FewShotEncoded(latent, self._image_features(inputs))

    def _image_features(self, inputs: Inputs) -> Float[Tensor, "b f"] | None:
        """Return the CLIP features, from the cache ``inputs.latents`` if there is one."""
        vision, image = self.vision, inputs.image
        if vision is None or inputs.latents is None:
            return None if vision is None else vision(image)
        return inputs.latents.get(vision, image, vision)

    def forward(
        self,
        inputs: Inputs,
        encoded: FewShotEncoded | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the probability of every class from one pass on noised latents.

        Args:
            inputs: images.
            encoded: result of ``encode``; None computes it.
            target: not used.
            draws: random numbers of the noise, and of the timestep in training; default: seeds
                computed from the pixels.
        """
        encoded = encoded or self.encode(inputs)
        draws = draws or Draws.of_content(inputs.image)
        latent = encoded.latent
        batch = latent.shape[0]
        if self.training:
            timesteps = draws.integers(TIMESTEP, *self.train_timesteps)
        else:
            timesteps = torch.full((batch,), self.timestep)
        noise = draws.normal(NOISE, tuple(latent.shape[1:])).to(latent)
        timesteps = timesteps.to(latent.device)
        recorder = ConceptRecorder(self.maps)
        noised = self.backbone.add_noise(latent, noise, timesteps)
        self.backbone.features(noised, self.concepts(batch), timesteps, recorder)
        probability = self._combine(recorder.close(), inputs.image)
        if self.codebook is None:
            return Classes(probability, "probabilities")
        assert self.spec.codec is not None
        values = self.codebook(encoded.image_features, batch)
        centres = self.spec.codec.centres
        return Distribution(probability, expectation(probability, values), centres)

    def _combine(
        self, maps: tuple[Tensor, ...], image: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b n h w"]:
        """Return class probabilities: the mean of all maps, normalised over the classes."""
        height, width = image.shape[-2:]
        multiple = self.backbone.size_multiple
        padded = (height + -height % multiple, width + -width % multiple)
        sums: list[Tensor] = []  # maps of one size follow one another, and are resized together
        for layer in maps:
            if sums and sums[-1].shape == layer.shape:
                sums[-1] = sums[-1] + layer.float()
            else:
                sums.append(layer.float())
        whole = torch.stack([resize_contiguous(one, padded) for one in sums]).sum(dim=0)
        mean = whole[..., :height, :width] / len(maps)
        return mean / mean.sum(dim=1, keepdim=True).clamp(min=MIN_SUM)

    def frozen(self) -> dict[str, PretrainedPart]:
        """Return Stable Diffusion, and CLIP if it is used."""
        parts: dict[str, PretrainedPart] = {"backbone": self.backbone}
        return parts if self.vision is None else {**parts, "vision": self.vision}

    def explain(self, inputs: Inputs, encoded: FewShotEncoded | None = None) -> Explanation:
        """Return the output of one image, and the values of the classes in this image."""
        encoded = encoded or self.encode(inputs)
        output = self(inputs, encoded, draws=Draws((0,)))
        book, features = self.codebook, encoded.image_features
        if book is None:
            return Explanation(output)
        values = book(features, 1)[0]
        tables = book.scaled_tables if book.size else None
        weights = None if features is None or book.size < 2 else book.weights(features)[0]
        return Explanation(output, values=values, tables=tables, weights=weights)

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether the backbone is a diffusion model."""
        return source.is_diffusion

    @classmethod
    def from_backbone(
        cls,
        source: BackboneSource,
        *,
        codebook: int | None = None,
        clip: str | Path | None = None,
        maps: dict[str, Any] | None = None,
        **options: Any,
    ) -> MethodBuilder:
        """Return a builder of the method on a frozen Stable Diffusion.

        Args:
            source: Stable Diffusion.
            codebook: number of tables of the label codebook; default: 10 if there is a CLIP vision
                model, else 1.
            clip: source of the CLIP vision model; default: the backbone's own, else CLIP ViT-L/14
                from the hub.
            maps: options of ``ConceptRequest``.
            options: arguments of the constructor.

        Raises:
            InputError: if the number of tables is negative, or an option of ``maps`` is unknown.
                The builder raises it if several tables are given without a CLIP model.
        """
        if codebook is not None and codebook < 0:
            raise InputError(f"a codebook of {codebook} tables: give 0 (fixed values) or more")
        names = {f.name for f in fields(ConceptRequest)}
        if unknown := sorted((maps or {}).keys() - names):
            raise InputError(f"maps have no option {unknown[0]}: {suggest(unknown[0], names)}")
        request = ConceptRequest(**(maps or {}))

        def make(output: OutputSpec) -> AbstractMethod:
            tables = TABLES if codebook is None else codebook
            is_mixed = output.codec is not None and tables > 1  # classes need no CLIP model
            if is_mixed and not (clip or source.default_clip):
                if codebook is not None:
                    raise InputError(
                        f"a codebook of {codebook} tables is mixed by a CLIP vision model, but "
                        f"{source.name} has none and {CLIP} cannot be fetched: go online, give "
                        "one (--clip), or choose 1 table"
                    )
                _log_one_table(source.name)
                tables, is_mixed = 1, False
            return cls(
                output=output,
                backbone=source.diffusion,
                codebook=tables,
                vision=source.clip(clip) if is_mixed else None,
                maps=request,
                **options,
            )

        return make_builder(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with SLiMe's learning rate of 0.1 for the concepts.

        The concepts come from SLiMe, and the few-shot paper states no learning rate.
        """
        rates = {"concepts": 0.1, "codebook.tables": 0.01, "codebook.mix": 1e-3}
        clips = {"codebook": 1.0}
        return FitSettings(
            rates, batch_size=2, max_steps=2000, constant_fraction=0.5, clip_norms=clips
        )


@functools.cache  # log once, not for every fold
def _log_one_table(name: str) -> None:
    log.info(
        "the paper mixes a codebook of %d tables by CLIP ViT-L/14, but %s has no CLIP vision model "
        "and %s cannot be fetched: a codebook of 1 table is trained (go online, or give --clip)",
        TABLES,
        name,
        CLIP,
    )
