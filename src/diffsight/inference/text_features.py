"""What frozen text towers give for sentences, kept for the next pass or epoch."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

MAX_BYTES = 2**28  # over 2,000 sentences of 40 tokens of Stable Diffusion 1.x


class TextFeatureCache:
    """Features of the sentences that were used last, on the device that computed them.

    A sentence is encoded by itself, so that its features depend neither on its batch nor on what
    was encoded before. An encoder is recognised by its identity.

    Args:
        max_bytes: size of all features that are kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        # the encoder is kept too: while it lives, no other object has its id
        self._entries: OrderedDict[Hashable, tuple[object, Tensor]] = OrderedDict()

    def get(
        self,
        encoder: object,
        sentences: Sequence[str | None],
        compute: Callable[[str | None], Float[Tensor, "1 n c"]],
        device: torch.device,
    ) -> Float[Tensor, "b n c"]:
        """Return what ``compute`` gives for each sentence, or what it gave before on this device.

        Raises:
            InputError: as ``compute``.
        """
        return torch.cat([self._one(encoder, one, compute, device) for one in sentences])

    def _one(
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
