"""Base classes of backbones, which turn an image into a pyramid of features."""

import abc
import contextlib
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from diffsight.backbones.attention_maps import AbstractRecorder
from diffsight.config import Configurable
from diffsight.ops.padding import MID_GREY, pad_to_multiple
from diffsight.rig import Rig
from diffsight.types import Draws, Inputs, Latents, Pyramid

TIMESTEPS = 1000  # of a diffusion model


class AbstractBackbone(nn.Module, Configurable, abc.ABC):
    """Base class of backbones, which turn images into a ``Pyramid`` of features.

    Attributes:
        channels: channels of each level, finest first.
        strides: image pixels per feature pixel of each level.
        size_multiple: image sides must be a multiple of this many pixels.
        has_fixed_graph: whether its operations depend on the size of the image, so that a graph is
            exported for one size.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_multiple: int
    has_fixed_graph: bool = False

    @abc.abstractmethod
    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the features of images in [0, 1] whose sides are multiples of ``size_multiple``.

        Args:
            image: RGB in [0, 1].
            latents: cache of latents that several methods share; only diffusion models use it.

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

    def exporting(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that replaces operations that other runtimes lack; default: none."""
        return contextlib.nullcontext()

    def check_rig(self, rig: Rig) -> None:
        """Refuse a camera rig that the backbone cannot read; default: accept every rig.

        Raises:
            InputError: if the rig is refused.
        """

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return a placeholder rig on the meta device, to count the operations of a pass.

        Args:
            hw: height and width of a camera image in pixels.

        Returns:
            The rig; None if the backbone reads one image.
        """
        return None


class AbstractDiffusionBackbone(nn.Module, Configurable, abc.ABC):
    """Base class of denoising networks that run on the latent of an image.

    Attributes:
        channels: channels of each level of its features, finest first.
        strides: image pixels per feature pixel of each level.
        size_multiple: image sides must be a multiple of this many pixels.
        context_dim: width of the condition's vectors (the UNet's ``cross_attention_dim``).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_multiple: int
    context_dim: int

    @property
    @abc.abstractmethod
    def latent_is_fixed(self) -> bool:
        """Whether an image always has the same latent (it is not sampled, the VAE not trained)."""

    @abc.abstractmethod
    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, draws: Draws | None = None
    ) -> Float[Tensor, "b c lh lw"]:
        """Return the scaled latent of images in [0, 1].

        Args:
            image: RGB in [0, 1].
            draws: random numbers, for a backbone that samples its latents.
        """

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
        """Return noised latents, as the model's noise schedule defines them.

        Args:
            latent: scaled latents without noise.
            noise: standard normal numbers.
            timesteps: timestep of each row.
        """


class PretrainedPart(nn.Module, Configurable, abc.ABC):
    """Base class of networks with weights from the package, a folder, a hub id or a saved model.

    Attributes:
        source: origin of the weights: ``tiny``, a hub id or a path; None if they are random,
            trained, or loaded with a saved model.
        revision: commit of a hub id.
    """

    source: str | None = None
    revision: str | None = None

    @abc.abstractmethod
    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load the weights and set the attributes ``source`` and ``revision``.

        Args:
            source: ``tiny``, a hub id, or the path of a folder or file.
            revision: branch, tag or commit of a hub id.

        Raises:
            InputError: if the weights are missing, or belong to another architecture.
        """
