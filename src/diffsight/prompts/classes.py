"""Class names as tokens: every image is asked about all of them at once (VPD, segmentation)."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.prompts.text import TextAdapter, table_rows
from diffsight.types import Inputs


class ClassTokens(nn.Module, Configurable):
    """One token per class, refined by the adapter; the softmax of an attention runs over classes.

    Args:
        names: of the classes, in the order of their ids; with ``weights``, rows are looked up by
            name.
        dim: width of a vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        weights: a table written by ``diffsight text-table``; None starts from random unit normal
            rows.
        learn_rows: train the rows too (for a backbone trained from scratch, where no text tower
            exists).

    Raises:
        InputError: for repeated names, or a table that lacks one.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        dim: int = 768,
        weights: str | Path | None = None,
        learn_rows: bool = False,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.dim = dim
        rows = table_rows(self.names, dim, weights)
        self.rows: Tensor
        if learn_rows:
            self.rows = nn.Parameter(rows)
        else:
            self.register_buffer("rows", rows)
        self.adapter = TextAdapter(dim)

    @property
    def num_tokens(self) -> int:
        """One per class."""
        return len(self.names)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The same condition for each image: a prompt of its own plays no part."""
        return self.adapter(self.rows).expand(len(inputs.image), -1, -1)
