"""The contract of prompts: what conditions the UNet."""

import abc

from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.types import Inputs


class AbstractPrompt(nn.Module, Configurable, abc.ABC):
    """Turns the texts of a batch into a condition, one vector per token.

    Attributes:
        num_tokens: of an image's condition.
        dim: width of a vector.
        requires_text: whether every image needs a sentence.
    """

    num_tokens: int
    dim: int
    requires_text: bool = False

    @abc.abstractmethod
    def forward(self, inputs: Inputs) -> Float[Tensor, "b n c"]:
        """Return the condition of each image.

        Raises:
            InputError: for a text that is missing or unknown.
        """

    def check(self, text: str) -> None:
        """Refuse a sentence that cannot be read whole.

        Raises:
            InputError: if it cannot.
        """

    def placeholder(self) -> Tensor | None:
        """Return what stands for ``Inputs.text`` of one image when a pass is only counted."""
        return None
