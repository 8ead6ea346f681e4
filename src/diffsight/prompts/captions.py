"""Caption images with any image-to-text model of transformers (EVP uses BLIP-2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from diffsight.errors import InputError
from diffsight.weights import resolve_folder, variant_of

BLIP2 = "Salesforce/blip2-flan-t5-xxl"
"""The captioner of EVP's authors."""


class Captioner:
    """A model that describes each image in a sentence.

    Args:
        source: folder or hub id of a model that turns images into text.
        device: device of the model.
        max_tokens: largest number of tokens of a caption.
        dtype: dtype of the weights; default: that of their files.

    Raises:
        InputError: if the model cannot be loaded.
    """

    def __init__(
        self,
        source: str = BLIP2,
        *,
        device: str = "cpu",
        max_tokens: int = 40,
        dtype: torch.dtype | None = None,
    ) -> None:
        import transformers  # takes seconds

        self.device = device
        self.max_tokens = max_tokens
        try:
            path = str(resolve_folder(Path(source)))
            self._processor: Any = transformers.AutoProcessor.from_pretrained(path)
            cls = transformers.AutoModelForImageTextToText
            variant = variant_of(Path(path))
            model: Any = cls.from_pretrained(path, variant=variant, dtype=dtype or "auto")
            self._model = model.to(device).eval()
        except Exception as error:  # transformers raises many types for missing or damaged files
            reason = " ".join(str(error).split())
            raise InputError(
                f"{source}: no captioner there ({reason}): give a folder or hub id such as {BLIP2}"
            ) from None

    @torch.no_grad()
    def __call__(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[str]:
        """Return a caption for each image.

        Decoding is greedy, so equal images get equal captions.

        Args:
            images: RGB images of any size, with values from 0 to 255.
        """
        pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        inputs = self._processor(images=pictures, return_tensors="pt")
        inputs = {
            name: x.to(self.device, self._model.dtype if x.is_floating_point() else x.dtype)
            for name, x in inputs.items()
        }
        tokens = self._model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]
