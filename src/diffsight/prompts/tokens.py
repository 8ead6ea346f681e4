"""Sentences as CLIP's token ids."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from diffsight.errors import InputError
from diffsight.prompts.encoder import load_tokenizer


class Tokenizer:
    """Words to ids, cut or filled up to one length; its files are read with the first sentence.

    Args:
        source: as for ``load_tokenizer``; None knows no words.
        num_tokens: of a sentence, begin and end included.
    """

    def __init__(self, source: str | None, num_tokens: int) -> None:
        self.source = source
        self.num_tokens = num_tokens
        self._loaded: list[Any] = []

    def __call__(self, sentences: Sequence[str | None] | None, count: int) -> Int[Tensor, "b n"]:
        """Ids of ``count`` sentences.

        Raises:
            InputError: if there is no tokenizer, it cannot be loaded, or a sentence is missing.
        """
        words = [sentence for sentence in sentences or () if sentence and sentence.strip()]
        if len(words) != count:
            raise InputError("every image needs a sentence: say what to look for in it")
        filled = {"padding": "max_length", "truncation": True, "max_length": self.num_tokens}
        return self._tokenizer()(words, **filled, return_tensors="pt")["input_ids"]

    def refuse_long(self, sentence: str) -> None:
        """What would be cut is refused.

        Raises:
            InputError: for a sentence of more tokens than are looked at.
        """
        count = len(self._tokenizer()(sentence)["input_ids"])
        if count > self.num_tokens:
            raise InputError(
                f"{sentence!r} has {count} tokens, begin and end included; the model reads "
                f"{self.num_tokens}: say it in fewer words"
            )

    def _tokenizer(self) -> Any:
        if self.source is None:
            raise InputError("the model has no tokenizer: name one, or give tokens or features")
        if not self._loaded:
            self._loaded.append(load_tokenizer(self.source))
        return self._loaded[0]
