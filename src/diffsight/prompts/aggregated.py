"""``Aggregated``: the mean text features of a data set's captions, for every image (EVP)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.tensors import read_safetensors
from diffsight.formats.text import reading
from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.text import TextAdapter
from diffsight.types import Inputs
from diffsight.weights import require_finite


class Aggregated(AbstractPrompt):
    """The same fixed tokens for every image, refined by ``TextAdapter``.

    Args:
        num_tokens: tokens of a padded caption, begin and end tokens included: 40 in EVP.
        dim: width of a token's vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        weights: file of the tokens, written by ``diffsight aggregate-prompts``; None: standard
            normal random tokens, the same in every process.

    Raises:
        InputError: if the file cannot be read, or its vectors have another shape.
    """

    def __init__(
        self, num_tokens: int = 40, *, dim: int = 768, weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dim = dim
        generator = torch.Generator().manual_seed(0)
        self.rows: Tensor
        rows = torch.empty(num_tokens, dim).normal_(generator=generator)
        if weights is not None:
            rows = _read(Path(weights), num_tokens, dim)
        self.register_buffer("rows", rows)
        self.adapter = TextAdapter(dim)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the same condition for every image."""
        return self.adapter(self.rows).expand(inputs.image.shape[0], -1, -1)


def _read(path: Path, num_tokens: int, dim: int) -> Float[Tensor, "n c"]:
    line = "no aggregated prompt ({reason}): write it with `diffsight aggregate-prompts`"
    with reading(path, line):
        rows = read_safetensors(path, line)["rows"]
    if tuple(rows.shape) != (num_tokens, dim):
        raise InputError(
            f"{path}: {' x '.join(map(str, rows.shape))} numbers, the model takes {num_tokens} "
            f"tokens of {dim}: write it for this model with `diffsight aggregate-prompts`"
        )
    require_finite([("rows", rows)], path)
    return rows.float()
