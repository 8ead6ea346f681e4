"""No words: what a text-conditioned UNet is given where nothing is to be said (VPD, table 5)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.text import load_text_encoder
from diffsight.types import Inputs


class Unprompted(AbstractPrompt):
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

    @classmethod
    @torch.no_grad()
    def of_folder(cls, folder: Path, dim: int) -> "Unprompted":
        """Return the empty-prompt embedding of a diffusers folder.

        Args:
            folder: whose text tower says it; without one it is a single token of zeros.
            dim: width of the UNet's condition.
        """
        if not (folder / "text_encoder").is_dir():
            return cls(1, dim=dim)
        tokenizer, tower = load_text_encoder(folder)
        longest = min(tokenizer.model_max_length, tower.config.max_position_embeddings)
        tokens = tokenizer([""], padding="max_length", max_length=longest, return_tensors="pt")
        made = cls(longest, dim=dim)
        made.rows = tower(tokens["input_ids"]).last_hidden_state[0]
        return made

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The same condition for each image."""
        return self.rows.expand(len(inputs.image), -1, -1)
