"""The contracts of backbones: an image in, a pyramid of features out."""

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
            latents: shared with other models on the same diffusion model; others ignore it.

        Raises:
            InputError: if a side is no multiple.
        """

    def of_inputs(self, inputs: Inputs) -> Pyramid:
        """Return the features of a batch; images are padded with mid-grey on the right and below.

        Raises:
            InputError: if the inputs are not those of the backbone.
        """
        image = pad_to_multiple(inputs.image, self.size_multiple, MID_GREY)
        return self(image, latents=inputs.latents)

    def check_rig(self, rig: Rig) -> None:
        """Refuse cameras that the backbone cannot read; default: nothing.

        Raises:
            InputError: if there is such a reason.
        """

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return cameras on the meta device, to count a pass; None: the backbone sees one image."""
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
            latent: noised or not.
            condition: one vector per token.
            timesteps: of each row.
            recorder: listens to the attention layers; where it needs no more, the pass stops, and
                only the features up to there are returned.
        """

    @abc.abstractmethod
    def add_noise(
        self,
        latent: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """Return the latent after so many steps of the model's noise schedule."""


class PretrainedPart(nn.Module, Configurable, abc.ABC):
    """A network whose weights come from the package, a folder, a hub id, or a saved model.

    Attributes:
        source: where they came from: ``tiny``, a hub id or a path; None: they were given, trained
            or loaded with a saved model.
        revision: commit of a hub id.
    """

    source: str | None = None
    revision: str | None = None

    @abc.abstractmethod
    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Fill the network from a source and note it.

        Raises:
            InputError: if the weights are not there, or are of another architecture.
        """
