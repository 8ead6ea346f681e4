"""Class names as tokens: every image is asked about all of them at once (VPD, segmentation)."""

from jaxtyping import Float
from torch import Tensor

from diffsight.prompts.text import AbstractTable
from diffsight.types import Inputs


class ClassTokens(AbstractTable):
    """One token per class, in the order of their ids: an attention's softmax runs over classes.

    Arguments as of ``AbstractTable``.
    """

    @property
    def num_tokens(self) -> int:  # type: ignore[override]
        """One per class."""
        return len(self.names)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The same condition for each image: a prompt of its own plays no part."""
        return self.adapter(self.rows).expand(len(inputs.image), -1, -1)
