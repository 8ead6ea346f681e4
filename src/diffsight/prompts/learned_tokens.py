"""``LearnedTokens``: trainable tokens, the same for every image (Meta Prompts, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.prompts.base import AbstractPrompt
from diffsight.types import Inputs


class LearnedTokens(AbstractPrompt):
    """Trainable tokens that are initialised from a standard normal distribution.

    Args:
        num_tokens: number of tokens of an image's condition.
        dim: width of a token's vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        adapter: transform the tokens by two linear layers with a GELU between them, without a
            residual (as in the authors' depth code; the paper does not mention it).
    """

    def __init__(self, num_tokens: int = 150, *, dim: int = 768, adapter: bool = False) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dim = dim
        self.rows = nn.Parameter(torch.randn(num_tokens, dim))
        self.adapter: nn.Sequential | None = None
        if adapter:
            self.adapter = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the same condition for every image."""
        rows = self.rows if self.adapter is None else self.adapter(self.rows)
        # a copy: a view of a parameter in inference mode would require gradients
        return rows.repeat(inputs.image.shape[0], 1, 1)
