"""``ClassTokens``: one token per class name, the same for every image (VPD, segmentation)."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.prompts.text import AbstractTable, build_text_table
from diffsight.types import Inputs


class ClassTokens(AbstractTable):
    """One token per class, in the order of the class numbers.

    The UNet's cross-attention is then a softmax over the classes. The arguments are those of
    ``AbstractTable``.
    """

    @classmethod
    def from_names(cls, names: Sequence[str], encoder: str | Path, *, dim: int) -> "ClassTokens":
        """Return class tokens that a text tower computes from "a photo of a NAME" (as in VPD).

        Args:
            names: names of the classes.
            encoder: source of the text tower, as for ``load_text_encoder``.
            dim: width of the UNet's condition.

        Raises:
            InputError: if the encoder cannot be loaded, has another width, or a name is too long.
        """
        rows = build_text_table(names, encoder=encoder, templates="single")
        if rows.shape[1] != dim:
            raise InputError(
                f"{encoder}: its text tower gives vectors of {rows.shape[1]} numbers, but the UNet "
                f"takes {dim}: give the tower that the UNet was trained with"
            )
        tokens = cls(names, dim=dim)
        tokens.rows.copy_(rows)
        return tokens

    @property
    def num_tokens(self) -> int:  # type: ignore[override]
        """Number of tokens: one per class."""
        return len(self.names)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the same condition for every image; prompts of the inputs are ignored."""
        return self.adapter(self.rows).expand(inputs.image.shape[0], -1, -1)
