"""A cache of the features of sentences, which frozen text encoders compute."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

MAX_BYTES = 2**28  # enough for 2,000 sentences of 40 tokens with Stable Diffusion 1.x


class TextFeatureCache:
    """Cache of the features of the most recent sentences, on the device that computed them.

    Each sentence is encoded alone, so that its features do not depend on other sentences. An
    encoder is identified by its ``id``.

    Args:
        max_bytes: maximum size of the cache.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        # the encoder is stored too, so that no other object gets its id
        self._entries: OrderedDict[Hashable, tuple[object, Tensor]] = OrderedDict()

    def get(
        self,
        encoder: object,
        sentences: Sequence[str | None],
        compute: Callable[[str | None], Float[Tensor, "1 n c"]],
        device: torch.device,
    ) -> Float[Tensor, "b n c"]:
        """Return the features of sentences, from the cache if possible.

        Args:
            encoder: encoder that computes the features.
            sentences: one sentence per image; None is passed on to ``compute``.
            compute: function that returns the features of a sentence.
            device: device of the features.

        Raises:
            InputError: if ``compute`` raises it.
        """
        return torch.cat([self._get_one(encoder, one, compute, device) for one in sentences])

    def _get_one(
        self,
        encoder: object,
        sentence: str | None,
        compute: Callable[[str | None], Tensor],
        device: torch.device,
    ) -> Tensor:
        key = (id(encoder), sentence, device)
        if (entry := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
            return entry[1]
        features = compute(sentence)
        self._entries[key] = (encoder, features)
        self._bytes += features.nbytes
        while self._bytes > self.max_bytes:
            _, (_, oldest) = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
        return features
