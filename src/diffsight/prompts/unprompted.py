"""``Unprompted``: the empty prompt as the condition of the UNet (VPD, table 5)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.encoder import load_text_encoder, load_text_model
from diffsight.types import Inputs


class Unprompted(AbstractPrompt):
    """The text features of the empty sentence, the same for every image.

    The features are a buffer, so they are saved with the model.

    Args:
        num_tokens: tokens of the padded sentence, begin and end tokens included.
        dim: width of a token's vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        weights: text tower that computes the features, as for ``load_text_encoder``. None: the
            features are zeros until a state dict is loaded.

    Raises:
        InputError: if the text tower cannot be loaded.
    """

    def __init__(self, num_tokens: int = 77, *, dim: int = 768, weights: str | None = None) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dim = dim
        self.rows: Tensor
        self.register_buffer("rows", torch.zeros(num_tokens, dim))
        if weights is not None:
            tokenizer, tower = load_text_encoder(weights)
            padding = {"padding": "max_length", "truncation": True, "max_length": num_tokens}
            tokens = tokenizer([""], **padding, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                self.rows = tower(input_ids=tokens).last_hidden_state[0]

    @classmethod
    @torch.no_grad()
    def from_folder(cls, folder: Path, dim: int) -> "Unprompted":
        """Return the empty prompt, computed by the text tower of a Stable Diffusion model.

        Args:
            folder: diffusers folder, or one original file. For a folder without a text tower the
                condition is a single token of zeros.
            dim: width of the UNet's condition.

        Raises:
            InputError: if the text tower cannot be loaded.
        """
        if folder.is_file():  # it has no tokenizer, but its configuration has the special ids
            tower = load_text_model(folder)
            config = tower.config
            tokens = torch.full((1, config.max_position_embeddings), config.pad_token_id)
            tokens[0, :2] = torch.tensor([config.bos_token_id, config.eos_token_id])
        elif (folder / "text_encoder").is_dir():
            tokenizer, tower = load_text_encoder(folder)
            longest = min(tokenizer.model_max_length, tower.config.max_position_embeddings)
            padding = {"padding": "max_length", "max_length": longest}
            tokens = tokenizer([""], **padding, return_tensors="pt")["input_ids"]
        else:
            return cls(1, dim=dim)
        prompt = cls(tokens.shape[1], dim=dim)
        prompt.rows = tower(tokens).last_hidden_state[0]
        return prompt

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the same condition for every image."""
        return self.rows.expand(inputs.image.shape[0], -1, -1)
