"""One condition for all images of a data set: the mean of its captions' tokens (EVP)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.prompts.text import TextAdapter
from diffsight.types import Inputs


class Aggregated(nn.Module, Configurable):
    """Tokens that no image changes, refined by the adapter.

    Args:
        num_tokens: of a caption, filled up: 40 in EVP.
        dim: width of a vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
    """

    def __init__(self, num_tokens: int = 40, *, dim: int = 768) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dim = dim
        generator = torch.Generator().manual_seed(0)
        self.rows: Tensor
        rows = torch.empty(num_tokens, dim).normal_(generator=generator)
        self.register_buffer("rows", rows)
        self.adapter = TextAdapter(dim)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The same condition for each image."""
        return self.adapter(self.rows).expand(len(inputs.image), -1, -1)
