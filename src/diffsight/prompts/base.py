"""The interface of prompts, which condition the UNet."""

import abc

from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.types import Inputs


class AbstractPrompt(nn.Module, Configurable, abc.ABC):
    """Turns the texts of a batch into a condition, one vector per token.

    Attributes:
        num_tokens: number of tokens of an image's condition.
        dim: width of a token's vector.
        requires_text: whether every image needs a sentence.
    """

    num_tokens: int
    dim: int
    requires_text: bool = False

    @abc.abstractmethod
    def forward(self, inputs: Inputs) -> Float[Tensor, "b n c"]:
        """Return the condition of each image.

        Raises:
            InputError: for a missing or unknown text.
        """

    def check(self, text: str) -> None:
        """Refuse a sentence that is too long; default: accept every sentence.

        Raises:
            InputError: if the sentence has more tokens than the condition.
        """

    def placeholder(self) -> Tensor | None:
        """Return a placeholder for ``Inputs.text`` of one image, to count the cost of a pass."""
        return None
