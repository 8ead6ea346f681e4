"""The base class of prompts, which condition the UNet."""

import abc

from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.types import Inputs


class AbstractPrompt(nn.Module, Configurable, abc.ABC):
    """Base class of prompts, which turn the texts of a batch into the UNet's condition.

    A condition is one vector per token. The UNet attends to it by cross-attention.

    Attributes:
        num_tokens: number of tokens of an image's condition.
        dim: width of a token's vector.
        requires_text: whether every image needs a sentence.
        reads_text: whether the condition depends on the text of an image if it has one.
    """

    num_tokens: int
    dim: int
    requires_text: bool = False
    reads_text: bool = False

    @abc.abstractmethod
    def forward(self, inputs: Inputs) -> Float[Tensor, "b n c"]:
        """Return the condition of each image.

        Args:
            inputs: batch with ``prompts`` or ``text``; some subclasses use neither.

        Raises:
            InputError: if a text is missing or unknown.
        """

    def check(self, text: str) -> None:
        """Refuse a sentence that is too long; default: accept every sentence.

        Raises:
            InputError: if the sentence has more tokens than the condition.
        """

    def placeholder(self) -> Tensor | None:
        """Return a placeholder for ``Inputs.text`` of one image, to count the operations of a pass.

        It is on the meta device; None if the prompt reads no encoded text.
        """
        return None
