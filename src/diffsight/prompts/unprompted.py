"""No words: what a text-conditioned UNet is given where nothing is to be said (VPD, table 5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.prompts.text import load_text_encoder
from diffsight.types import Inputs


class Unprompted(nn.Module, Configurable):
    """The tokens of an empty sentence, for every image; they are stored with the model.

    Args:
        num_tokens: of the sentence, begin and end included.
        dim: width of a vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        weights: of the text tower that says it, as for ``load_text_encoder``; None leaves zeros,
            for what is loaded later.
    """

    def __init__(self, num_tokens: int = 77, *, dim: int = 768, weights: str | None = None) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dim = dim
        self.rows: Tensor
        self.register_buffer("rows", torch.zeros(num_tokens, dim))
        if weights is not None:
            tokenizer, tower = load_text_encoder(weights)
            filled = {"padding": "max_length", "truncation": True, "max_length": num_tokens}
            tokens = tokenizer([""], **filled, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                self.rows = tower(input_ids=tokens).last_hidden_state[0]

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The same condition for each image."""
        return self.rows.expand(len(inputs.image), -1, -1)
