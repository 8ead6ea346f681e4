"""Interfaces of backbones, which turn an image into a pyramid of features."""

import abc
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor, nn

from diffsight.backbones.attention_maps import AbstractRecorder
from diffsight.config import Configurable
from diffsight.ops.padding import MID_GREY, pad_to_multiple
from diffsight.rig import Rig
from diffsight.types import Draws, Inputs, Latents, Pyramid

TIMESTEPS = 1000  # of a diffusion model


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

    @abc.abstractmethod
    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the features of images in [0, 1] whose sides are multiples of ``size_multiple``.

        Args:
            image: RGB in [0, 1].
            latents: cache of latents that several methods share; used by diffusion models only.

        Raises:
            InputError: if a side is not a multiple of ``size_multiple``.
        """

    def forward_inputs(self, inputs: Inputs) -> Pyramid:
        """Return the features of a batch, padded with mid-grey on the right and at the bottom.

        Raises:
            InputError: if the backbone cannot read the inputs.
        """
        image = pad_to_multiple(inputs.image, self.size_multiple, MID_GREY)
        return self(image, latents=inputs.latents)

    def check_rig(self, rig: Rig) -> None:
        """Refuse a camera rig that the backbone cannot read; default: accept every rig.

        Raises:
            InputError: if the rig is refused.
        """

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return a placeholder rig on the meta device, to count a pass; None: reads one image."""
        return None


class AbstractDiffusionBackbone(nn.Module, Configurable, abc.ABC):
    """A denoising network that is run on the latent of an image.

    Attributes:
        channels: channels of each level of its features, finest first.
        strides: image pixels per feature pixel of each level.
        size_multiple: image sides must be a multiple of this many pixels.
        context_dim: width of a vector of the condition.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_multiple: int
    context_dim: int

    @property
    @abc.abstractmethod
    def latent_is_fixed(self) -> bool:
        """Whether an image always has the same latent."""

    @abc.abstractmethod
    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, draws: Draws | None = None
    ) -> Float[Tensor, "b c lh lw"]:
        """Return the scaled latent of images in [0, 1]."""

    @abc.abstractmethod
    def features(
        self,
        latent: Float[Tensor, "b c h w"],
        condition: Float[Tensor, "b n e"],
        timesteps: Int[Tensor, " b"],
        recorder: AbstractRecorder | None = None,
    ) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """Return the features of one pass, finest first.

        Args:
            latent: scaled latents, with or without noise.
            condition: one vector per token.
            timesteps: timestep of each row.
            recorder: records attention layers. The pass stops as soon as the recorder needs no
                further layer, and returns only the features computed so far.
        """

    @abc.abstractmethod
    def add_noise(
        self,
        latent: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """Return the latents with the noise of these timesteps in the model's schedule."""


class PretrainedPart(nn.Module, Configurable, abc.ABC):
    """A network whose weights come from the package, a folder, a hub id, or a saved model.

    Attributes:
        source: origin of the weights: ``tiny``, a hub id or a path; None if they are random,
            trained, or loaded with a saved model.
        revision: commit of a hub id.
    """

    source: str | None = None
    revision: str | None = None

    @abc.abstractmethod
    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load the weights from a source, and record it in ``source`` and ``revision``.

        Raises:
            InputError: if the weights are missing, or belong to another architecture.
        """
