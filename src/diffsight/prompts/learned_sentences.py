"""``LearnedSentences``: text features of one sentence per image, by a trained text tower (EVP)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.sizes import check_sizes
from diffsight.formats.text import reason_of
from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.encoder import load_text_model
from diffsight.prompts.text import TextAdapter
from diffsight.prompts.tokens import Tokenizer
from diffsight.types import Inputs

CLIP_L14: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
"""Text tower of CLIP ViT-L/14, which Stable Diffusion 1.x uses."""


class LearnedSentences(AbstractPrompt):
    """The last hidden states of a CLIP text tower for the prompts, refined by ``TextAdapter``.

    The tower is trained with the model. A sentence is truncated or padded to ``num_tokens``; the
    UNet attends to the padding, too.

    Args:
        num_tokens: tokens of a sentence, begin and end tokens included.
        architecture: options of the tower, with the names of CLIP's text configuration; default:
            ViT-L/14.
        tokenizer: source of the tokenizer, as for ``load_text_encoder``; None: there are no
            prompts, because ``Inputs.text`` has the token ids.
        weights: initial weights of the tower, as for ``load_text_encoder``; None: random ones.
        pooled: use one vector per sentence, that of its end token (a row of EVP's table 4).

    Raises:
        InputError: if ``weights`` cannot be loaded or have another architecture.
    """

    requires_text = True

    def __init__(
        self,
        num_tokens: int = 40,
        *,
        architecture: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        weights: str | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel  # half a second

        sizes = CLIP_L14 if architecture is None else architecture
        check_sizes("architecture of the text tower", sizes)
        try:
            config = CLIPTextConfig(**sizes)
            self.tower: Any = CLIPTextModel(config)
        except Exception as error:  # transformers raises anything on sizes that do not fit
            raise InputError(f"architecture: no CLIP text model ({reason_of(error)})") from None
        self.num_tokens = 1 if pooled else num_tokens
        self.pooled = pooled
        self.dim: int = config.hidden_size
        self.tokenizer = Tokenizer(tokenizer, num_tokens)
        positions = torch.arange(config.max_position_embeddings, device="cpu")
        self.tower.embeddings.position_ids = positions[None]  # a meta device makes them unusable
        if weights is not None:
            self._load_weights(weights)
        self.adapter = TextAdapter(self.dim)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the condition of each image, from ``inputs.text`` (token ids) or its prompt.

        Raises:
            InputError: if an image has neither, or has a prompt but there is no tokenizer.
        """
        tokens = inputs.text
        if tokens is None:
            tokens = self.tokenizer(inputs.prompts, len(inputs.image)).to(inputs.image.device)
        output = self.tower(input_ids=tokens)
        return self.adapter(
            output.pooler_output[:, None] if self.pooled else output.last_hidden_state
        )

    def check(self, text: str) -> None:
        """Refuse a sentence with more tokens than the tower reads, see ``AbstractPrompt.check``."""
        self.tokenizer.check_length(text)

    def placeholder(self) -> Tensor:
        """Return placeholder token ids on the meta device, see ``AbstractPrompt.placeholder``."""
        return torch.zeros(1, self.tokenizer.num_tokens, dtype=torch.long, device="meta")

    def _load_weights(self, source: str | Path) -> None:
        state = load_text_model(source).state_dict()
        try:
            self.tower.load_state_dict(state)
        except RuntimeError:
            raise InputError(
                f"{source}: its text tower is of another architecture: set architecture to theirs"
            ) from None
