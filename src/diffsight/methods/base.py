"""The contract of methods: one paper wires backbone, prompts, neck and head as it does."""

import abc
from typing import Protocol, runtime_checkable

from torch import nn

from diffsight.config import Configurable
from diffsight.types import Draws, Inputs, RawOutput, Target

LATENT = "latent"  # name of what a frozen autoencoder makes of an image


class AbstractMethod(nn.Module, Configurable, abc.ABC):
    """Images in [0, 1] of any size in, a map of the same size out."""

    @abc.abstractmethod
    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """The map at the size of the image; ``target`` is for methods that diffuse labels."""


class AbstractCachedMethod(AbstractMethod):
    """A method whose frozen part, free of noise, is computed once per image."""

    @abc.abstractmethod
    def encode(self, inputs: Inputs) -> Inputs:
        """The same with what is frozen in ``cached``, so that ``forward`` does not compute it."""


@runtime_checkable
class MethodBuilder(Protocol):
    """Makes a method for a task; always called with keywords."""

    def __call__(self, *, num_outputs: int) -> AbstractMethod:
        """A method that gives ``num_outputs`` channels."""
        ...
