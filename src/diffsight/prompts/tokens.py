"""Conversion of sentences to CLIP's token ids."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from diffsight.errors import InputError
from diffsight.prompts.encoder import load_tokenizer


class Tokenizer:
    """CLIP's tokenizer, which converts sentences to token ids of one length.

    Its files are read when the first sentence is converted.

    Args:
        source: source of the tokenizer, as for ``load_tokenizer``; None: every sentence is refused.
        num_tokens: tokens of a sentence after truncation or padding, begin and end tokens included.
    """

    def __init__(self, source: str | None, num_tokens: int) -> None:
        self.source = source
        self.num_tokens = num_tokens
        self._loaded: list[Any] = []

    def __call__(self, sentences: Sequence[str | None] | None, count: int) -> Int[Tensor, "b n"]:
        """Return the token ids of sentences.

        Args:
            sentences: one sentence per image.
            count: number of images.

        Raises:
            InputError: if there is no tokenizer, it cannot be loaded, or a sentence is missing.
        """
        texts = [sentence for sentence in sentences or () if sentence and sentence.strip()]
        if len(texts) != count:
            raise InputError("every image needs a sentence: say what to look for in it")
        padding = {"padding": "max_length", "truncation": True, "max_length": self.num_tokens}
        return self._tokenizer()(texts, **padding, return_tensors="pt")["input_ids"]

    def check_length(self, sentence: str) -> None:
        """Refuse a sentence that would be truncated.

        Raises:
            InputError: if there is no tokenizer, or the sentence has more than ``num_tokens``
                tokens.
        """
        count = len(self._tokenizer()(sentence)["input_ids"])
        if count > self.num_tokens:
            raise InputError(
                f"{sentence!r} has {count} tokens, begin and end included, but the model reads "
                f"{self.num_tokens}: say it in fewer words"
            )

    def _tokenizer(self) -> Any:
        if self.source is None:
            raise InputError("the model has no tokenizer: name one, or give tokens or features")
        if not self._loaded:
            self._loaded.append(load_tokenizer(self.source))
        return self._loaded[0]
