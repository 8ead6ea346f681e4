"""No words: what a text-conditioned UNet is given where nothing is to be said (VPD, table 5)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.encoder import load_text_encoder, load_text_model
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
            folder: with the text tower, or an original file; without a tower it is a single token
                of zeros.
            dim: width of the UNet's condition.
        """
        if folder.is_file():  # it holds no tokenizer; begin, end and padding are known
            tower = load_text_model(folder)
            config = tower.config
            tokens = torch.full((1, config.max_position_embeddings), config.pad_token_id)
            tokens[0, :2] = torch.tensor([config.bos_token_id, config.eos_token_id])
        elif (folder / "text_encoder").is_dir():
            tokenizer, tower = load_text_encoder(folder)
            longest = min(tokenizer.model_max_length, tower.config.max_position_embeddings)
            filled = {"padding": "max_length", "max_length": longest}
            tokens = tokenizer([""], **filled, return_tensors="pt")["input_ids"]
        else:
            return cls(1, dim=dim)
        made = cls(tokens.shape[1], dim=dim)
        made.rows = tower(tokens).last_hidden_state[0]
        return made

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The same condition for each image."""
        return self.rows.expand(len(inputs.image), -1, -1)
