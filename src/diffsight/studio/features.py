"""Features of the frozen backbone, computed once per image and kept on disk."""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.formats.tensors import read_safetensors
from diffsight.methods.base import AbstractMethod
from diffsight.methods.feature_head import EncodedLevels
from diffsight.ops.memory import report_out_of_memory
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resize_image, working_hw
from diffsight.studio.images import Photograph
from diffsight.types import Inputs
from diffsight.weights import write_tensors

MAX_KEPT = 64  # images whose features are in memory, besides the labelled ones


@dataclass(frozen=True)
class Features:
    """The features of an image and of its mirror image.

    Attributes:
        hw: height and width at which the backbone saw the image.
        plain: features of the image, rounded to 16 bits.
        mirrored: features of the mirror image; None if they were not needed.
    """

    hw: tuple[int, int]
    plain: EncodedLevels
    mirrored: EncodedLevels | None = None

    @property
    def vector(self) -> Float[Tensor, " c"]:
        """Mean of every channel over the image."""
        return torch.cat([level[0].float().mean(dim=(1, 2)) for level in self.plain.levels])


class FeatureStore:
    """Computes features of photographs, and stores them by the content of the file.

    Args:
        folder: folder of the cache.
        method: method whose ``encode`` returns the features of its frozen backbone.
        short_side: shorter side in pixels at which the backbone sees an image.
        name: name of the backbone.
    """

    def __init__(self, folder: Path, method: AbstractMethod, short_side: int, name: str) -> None:
        self._folder, self._method, self._side = folder, method, short_side
        digest = hashlib.sha256(f"{name} {short_side} 1".encode())
        for part in method.frozen().values():
            for tensor in part.state_dict().values():
                digest.update(tensor.contiguous().numpy().tobytes())
        self._key = digest.hexdigest()[:16]
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, photograph: Photograph, *, mirror: bool = False) -> Features:
        """Return the features of an image, computed or read from the cache.

        Args:
            photograph: the image.
            mirror: whether the mirror image is needed too.

        Raises:
            InputError: if the image cannot be used.
        """
        content = photograph.content
        features = self._kept.get(content) or self._read(content)
        if features is not None and features.hw != self.working_hw(photograph.size):
            features = None  # the file was replaced while an earlier image was read
        if features is None or (mirror and features.mirrored is None):
            features = self._compute(photograph, mirror)
            self._write(content, features)
        with self._lock:
            self._kept[content] = features
            self._kept.move_to_end(content)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return features

    def working_hw(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width at which the backbone sees an image of this width and height."""
        return working_hw(size[1], size[0], short_side=self._side)

    def _path(self, content: str) -> Path:
        return self._folder / f"{content[:32]}-{self._key}.safetensors"

    def _compute(self, photograph: Photograph, mirror: bool) -> Features:
        hw = self.working_hw(photograph.size)
        with report_out_of_memory(f"{photograph.path}: not enough memory: make the image smaller"):
            image = resize_image(photograph.read(self._side)[None].float() / 255, hw)
            plain = self._encode(image)
            return Features(hw, plain, self._encode(image.flip(-1)) if mirror else None)

    @torch.no_grad()
    def _encode(self, image: Tensor) -> EncodedLevels:
        with float32_products(tf32=False):
            encoded: Any = self._method.encode(Inputs(image))
        return EncodedLevels(tuple(level.half() for level in encoded.levels), encoded.covered)

    def _read(self, content: str) -> Features | None:
        path = self._path(content)
        if not path.is_file():
            return None
        with contextlib.suppress(InputError, KeyError, ValueError, TypeError):
            tensors = read_safetensors(path, "damaged ({reason})")
            size, sides = tensors["size"].tolist(), []
            for side in ("plain", "mirrored"):
                names = sorted(name for name in tensors if name.startswith(f"{side}."))
                levels = tuple(tensors[name] for name in names)
                covered = torch.empty(1, 0, *size[2:])
                sides.append(EncodedLevels(levels, covered) if levels else None)
            if sides[0] is not None:
                return Features((size[0], size[1]), sides[0], sides[1])
        return None  # a damaged file is written anew

    def _write(self, content: str, features: Features) -> None:
        tensors = {"size": torch.tensor([*features.hw, *features.plain.covered.shape[-2:]])}
        for side, encoded in (("plain", features.plain), ("mirrored", features.mirrored)):
            for number, level in enumerate(encoded.levels if encoded else ()):
                tensors[f"{side}.{number:02d}"] = level
        # without the cache the features are computed again: a full disk ends nothing
        with contextlib.suppress(InputError, OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(content)) as partial:
                write_tensors(tensors, partial)
