"""``Sentences``: text features of one sentence per image, by a frozen text tower.

VPD and EVP use it for referring segmentation.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.ops.precision import without_autocast
from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.encoder import load_text_model
from diffsight.prompts.text import TextAdapter
from diffsight.prompts.tokens import Tokenizer
from diffsight.types import Inputs


class Sentences(AbstractPrompt):
    """The last hidden states of CLIP's text tower for the prompts, refined by ``TextAdapter``.

    A sentence is truncated or padded to ``num_tokens``. The UNet attends to the padding, too, as in
    the authors' code, which loads an attention mask but never uses it.

    Args:
        num_tokens: tokens of a sentence, begin and end tokens included: 40 for RefCOCO and
            RefCOCO+, 77 for G-Ref.
        dim: width of a token's vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        encoder: source of the text tower, as for ``load_text_encoder``. The tower is frozen. It is
            loaded when the first sentence is encoded, and runs on the device of the images. A saved
            model stores its name, not its weights. None: there are no prompts, because
            ``Inputs.text`` has the text features.
        pooled: use one vector per sentence, that of its end token (rows of EVP's table 4).
    """

    requires_text = True

    def __init__(
        self,
        num_tokens: int = 40,
        *,
        dim: int = 768,
        encoder: str | Path | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.num_tokens = 1 if pooled else num_tokens
        self.pooled = pooled
        self.dim = dim
        self.encoder = encoder
        self.tokenizer = Tokenizer(None if encoder is None else str(encoder), num_tokens)
        self.adapter = TextAdapter(dim)
        self._tower: list[Any] = []

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the condition of each image, from ``inputs.text`` (features) or its prompt.

        Raises:
            InputError: if an image has neither, the tower cannot be loaded, or the features have
                another shape than the model takes.
        """
        features = inputs.text
        if features is None:
            features = self._features_of(inputs).to(inputs.image)
        if features.shape[1:] != (self.num_tokens, self.dim) or len(features) != len(inputs.image):
            raise InputError(
                f"{tuple(features.shape)} text features for {len(inputs.image)} images: the model "
                f"takes {self.num_tokens} tokens of {self.dim} numbers each"
            )
        return self.adapter(features)

    def features(
        self, sentences: Sequence[str | None], device: torch.device | None = None
    ) -> Float[Tensor, "b n c"]:
        """Return the text features of the frozen tower, in 32 bit.

        Args:
            sentences: one per image.
            device: device to which the tower is moved; default: it stays where it is.

        Raises:
            InputError: if there is no tower, it cannot be loaded, or a sentence is missing.
        """
        if self.encoder is None:
            raise InputError(
                "the model has no text encoder: set encoder of its prompts, or give text features"
            )
        tokens = self.tokenizer(sentences, max(1, len(sentences)))
        if not self._tower:
            self._tower.append(load_text_model(self.encoder).requires_grad_(False))
        tower = self._tower[0] if device is None else self._tower[0].to(device)
        # validation runs in inference mode, but a later training step may use the same features
        with torch.inference_mode(False), torch.no_grad():
            tokens = tokens.to(tower.device)
            with without_autocast(tokens):
                output = tower(input_ids=tokens)
        return output.pooler_output[:, None] if self.pooled else output.last_hidden_state

    def _features_of(self, inputs: Inputs) -> Float[Tensor, "b n c"]:
        """Return the features of the prompts, from the cache ``text_features`` if there is one."""
        device, cache = inputs.image.device, inputs.text_features
        if cache is None or not inputs.prompts:
            return self.features(inputs.prompts or (), device)
        compute = partial(self._one, device=device)
        return cache.get(self, inputs.prompts, compute, device)

    def _one(self, sentence: str | None, *, device: torch.device) -> Float[Tensor, "1 n c"]:
        """Return the features of one sentence, as a batch of one."""
        return self.features([sentence], device)

    def check(self, text: str) -> None:
        """Refuse a sentence with more tokens than the tower reads, see ``AbstractPrompt.check``."""
        self.tokenizer.check_length(text)

    def placeholder(self) -> Float[Tensor, "1 n c"]:
        """Return placeholder features on the meta device, see ``AbstractPrompt.placeholder``."""
        return torch.empty(1, self.num_tokens, self.dim, device="meta")
