"""FewShot: diffusion models are few-shot learners for dense vision tasks (ICLR 2025 submission).

A frozen Stable Diffusion; one learned concept per class in the place of the text (section 3.3), and
a label codebook that says what the classes are worth in an image (section 3.4).
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.clip import ClipVision
from diffsight.backbones.concept_maps import ConceptRecorder, ConceptRequest, resized
from diffsight.backbones.stable_diffusion import StableDiffusion, add_noise
from diffsight.codecs import expectation
from diffsight.errors import InputError
from diffsight.heads.codebook import Codebook
from diffsight.methods.base import LATENT, AbstractCachedMethod
from diffsight.ops.padding import MID_GREY, pad_to_multiple
from diffsight.prompts.concept import Concepts
from diffsight.types import Draws, Inputs, RawOutput, Target

CLIP = "clip"  # name of the image features that are computed once per image
NOISE, TIMESTEP = 0, 1  # streams of random numbers
FLOOR = 1e-8  # of a sum over classes


class FewShot(AbstractCachedMethod):
    """A distribution over classes per pixel, and its expected value.

    Args:
        num_outputs: classes, each with a concept.
        backbone: frozen; its latent is scaled as the UNet was trained.
        codebook: values of the classes; None for a task of discrete classes.
        vision: image features for a codebook of more than one table.
        maps: how attentions become maps.
        concept_std: of the concepts' random start.
        train_timesteps: noise of a training step is drawn between these two, ends included.
        timestep: of a prediction.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        backbone: StableDiffusion,
        codebook: Codebook | None = None,
        vision: ClipVision | None = None,
        maps: ConceptRequest | None = None,
        concept_std: float = 1.0,
        train_timesteps: tuple[int, int] = (5, 200),
        timestep: int = 200,
    ) -> None:
        super().__init__()
        if codebook is not None and codebook.size > 1 and vision is None:
            raise InputError(
                "a codebook of several tables mixes them by CLIP features: give vision"
            )
        self.backbone = backbone.requires_grad_(False)
        self.concepts = Concepts(num_outputs, dim=backbone.context_dim, std=concept_std)
        self.codebook = codebook
        self.vision = vision
        self.maps = maps or ConceptRequest()
        self.train_timesteps = train_timesteps
        self.timestep = timestep

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> Inputs:
        """What is frozen and free of noise, once per image: latents and CLIP features."""
        padded = pad_to_multiple(inputs.image, self.backbone.size_multiple, MID_GREY)
        cached = {LATENT: self.backbone.encode(padded)}
        if self.vision is not None:
            cached[CLIP] = self.vision(inputs.image)
        return replace(inputs, cached=cached)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """One noised pass; the probability of every class at the size of the image.

        Args:
            inputs: as ``encode`` gives them, or without its results.
            target: not used.
            draws: noise, and in training the timestep; default: from the pixels.

        Returns:
            ``maps`` sum to 1 over the classes; ``auxiliary["value"]`` is their expected value,
            ``b d h w`` in the unit of the labels, if there is a codebook.
        """
        if LATENT not in inputs.cached:
            inputs = self.encode(inputs)
        draws = draws or Draws.of_content(inputs.image)
        latent = inputs.cached[LATENT]
        batch = len(latent)
        if self.training:
            timesteps = draws.integers(TIMESTEP, *self.train_timesteps)
        else:
            timesteps = torch.full((batch,), self.timestep)
        noise = draws.normal(NOISE, tuple(latent.shape[1:])).to(latent)
        timesteps = timesteps.to(latent.device)
        recorder = ConceptRecorder(self.maps)
        noised = add_noise(latent, noise, timesteps)
        self.backbone.trunk(noised, self.concepts(batch), timesteps, recorder)
        probability = self._combine(recorder.close(), inputs.image)
        if self.codebook is None:
            return RawOutput(probability, "probability")
        values = self.codebook(inputs.cached.get(CLIP), batch)
        return RawOutput(probability, "probability", {"value": expectation(probability, values)})

    def _combine(
        self, maps: tuple[Tensor, ...], image: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b n h w"]:
        """Sum of the maps at the padded size, then a distribution over the classes."""
        height, width = image.shape[-2:]
        multiple = self.backbone.size_multiple
        padded = (height + -height % multiple, width + -width % multiple)
        sums: dict[tuple[int, ...], Tensor] = {}  # maps of one size are resized together
        for some in maps:
            hw = tuple(some.shape[-2:])
            sums[hw] = sums[hw] + some.float() if hw in sums else some.float()
        whole = torch.stack([resized(some, padded) for some in sums.values()]).sum(dim=0)
        mean = whole[..., :height, :width] / len(maps)
        return mean / mean.sum(dim=1, keepdim=True).clamp(min=FLOOR)
