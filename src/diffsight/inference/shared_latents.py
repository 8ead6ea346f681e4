"""A cache of latents and image features for models that share a frozen encoder."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LATENT_BYTES = 2**26  # default size of the cache


class SharedLatents:
    """Cache of the latents and CLIP features of the most recent images.

    Give the same object to several predictors that share a frozen encoder, and run them image by
    image. Each image is then encoded once, whatever the batches. An encoder is identified by its
    ``id``, an image by the SHA-256 of its pixels.

    Args:
        max_bytes: maximum size of the cache; the latents of the last batch are always kept.
    """

    def __init__(self, max_bytes: int = MAX_LATENT_BYTES) -> None:
        self.max_bytes = max_bytes
        # the encoder is stored too, so that no other object gets its id
        self._entries: OrderedDict[Hashable, tuple[object, Tensor]] = OrderedDict()

    def get(
        self,
        encoder: object,
        image: Float[Tensor, "b 3 h w"],
        compute: Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n ..."]],
    ) -> Float[Tensor, "b ..."]:
        """Return the latents of images, from the cache if possible.

        Args:
            encoder: encoder that computes the latents.
            image: batch of images.
            compute: function that returns the latents of images; it gets those that are not cached.
        """
        keys = [(id(encoder), *_identity(row)) for row in image.split(1)]
        missing = {key: i for i, key in enumerate(keys) if key not in self._entries}
        if missing:
            rows = compute(image[list(missing.values())]).split(1)
            # copied, because a row is a view that keeps the memory of its whole batch
            copies = rows if len(rows) == 1 else [row.clone() for row in rows]
            self._entries.update(zip(missing, ((encoder, row) for row in copies), strict=True))
        for key in keys:
            self._entries.move_to_end(key)
        latents = [self._entries[key][1] for key in keys]
        while len(self._entries) > len(keys) and self._bytes() > self.max_bytes:
            self._entries.popitem(last=False)
        return latents[0] if len(latents) == 1 else torch.cat(latents)

    def _bytes(self) -> int:
        return sum(latent.nbytes for _, latent in self._entries.values())


def _identity(image: Tensor) -> tuple[Hashable, ...]:
    """Return a key with everything that the latent of an image depends on, except the encoder."""
    kind = image.device.type
    mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    pixels = image.detach().cpu().contiguous().view(torch.uint8).numpy()
    digest = hashlib.sha256(pixels.data).digest()
    return digest, tuple(image.shape), image.dtype, image.device, mixed
