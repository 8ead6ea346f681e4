"""A sentence per image through a text tower that learns with the model (EVP)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.prompts.text import TextAdapter, load_text_encoder
from diffsight.types import InputError, Inputs

CACHED = "tokens"  # key of ``Inputs.cached``
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


class LearnedSentences(nn.Module, Configurable):
    """The tower's last hidden states, after its final norm, refined by the adapter.

    A sentence is cut or filled up to ``num_tokens``; what fills it up is attended to as well.

    Args:
        num_tokens: of a sentence, begin and end included.
        architecture: of the tower, as CLIP's text configuration names it; default: ViT-L/14.
        tokenizer: as for ``load_text_encoder``, for prompts as texts; None: tokens come with the
            inputs.
        weights: where the tower starts, as for ``load_text_encoder``; None is random.

    Raises:
        InputError: if ``weights`` cannot be loaded, or are of another architecture.
    """

    def __init__(
        self,
        num_tokens: int = 40,
        *,
        architecture: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel  # half a second

        config = CLIPTextConfig(**(CLIP_L14 if architecture is None else architecture))
        self.num_tokens = num_tokens
        self.dim: int = config.hidden_size
        self.tokenizer = tokenizer
        self.tower: Any = CLIPTextModel(config)
        positions = torch.arange(config.max_position_embeddings, device="cpu")
        self.tower.embeddings.position_ids = positions[None]  # a meta device makes them unusable
        if weights is not None:
            self._start_from(weights)
        self.adapter = TextAdapter(self.dim)
        self._tokenizer: list[Any] = []

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """The condition of each image: of ``inputs.cached["tokens"]``, or else of its prompt.

        Raises:
            InputError: if an image has neither.
        """
        tokens = inputs.cached.get(CACHED)
        if tokens is None:
            tokens = self.tokens(inputs).to(inputs.image.device)
        return self.adapter(self.tower(input_ids=tokens).last_hidden_state)

    def tokens(self, inputs: Inputs) -> Int[Tensor, "b {self.num_tokens}"]:
        """Ids of the prompts' words.

        Raises:
            InputError: if there is no tokenizer, or an image has no sentence.
        """
        if self.tokenizer is None:
            raise InputError("the model has no tokenizer: name one (tokenizer), or give tokens")
        words = [sentence for sentence in inputs.prompts or () if sentence]
        if len(words) != len(inputs.image):
            raise InputError("every image needs a sentence: say what to look for in it")
        if not self._tokenizer:
            self._tokenizer.append(load_text_encoder(self.tokenizer)[0])
        filled = {"padding": "max_length", "truncation": True, "max_length": self.num_tokens}
        return self._tokenizer[0](words, **filled, return_tensors="pt")["input_ids"]

    def _start_from(self, source: str | Path) -> None:
        state = load_text_encoder(source)[1].state_dict()
        try:
            self.tower.load_state_dict(state)
        except RuntimeError:
            raise InputError(
                f"{source}: its text tower is of another architecture: give that"
            ) from None
