"""Rendered rooms with their captions on disk, in chunks that are each written once.

What is pretrained sees these two and nothing else: no label is rendered.
"""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.atomic import replacing
from diffsight.formats.text import read_json, reading, reason_of
from diffsight.ops.machine import require_bytes
from diffsight.ops.resize import resized_image
from diffsight.rooms import RENDERER_VERSION, render_scene
from diffsight.rooms.dataset import PIXEL_BYTES, check_size

CHUNK = 500


@dataclass(frozen=True)
class Pictures:
    """A range of rooms at one size.

    Attributes:
        name: of the world, the split and the size.
        images: one array per chunk, read from disk when they are used; chunks are whole.
        texts: a caption for each of these images.
        count: images of the range.
    """

    name: str
    images: Sequence[UInt8[np.ndarray, "n 3 h w"]]
    texts: tuple[str, ...]
    count: int

    def __len__(self) -> int:
        """Number of images of the range."""
        return self.count

    @property
    def captions(self) -> tuple[str, ...]:
        """One per image of the range."""
        return self.texts[: self.count]

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.images[0].shape[-1]

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Return one image."""
        return torch.from_numpy(self.images[index // CHUNK][index % CHUNK].copy())

    def at(self, indices: Sequence[int], size: int) -> UInt8[Tensor, "b 3 h w"]:
        """Return several images at ``size``: averaged if it divides theirs, else interpolated."""
        images = torch.stack([self.image(i) for i in indices])
        if self.size % size == 0:
            return averaged(images, self.size // size)
        return resized_image(images.float(), (size, size)).round().to(torch.uint8)


def averaged(images: UInt8[Tensor, "b 3 _ _"], factor: int) -> UInt8[Tensor, "b 3 _ _"]:
    """Return the mean colour of squares of ``factor`` pixels."""
    if factor == 1:
        return images
    return functional.avg_pool2d(images.float(), factor).round().to(torch.uint8)


def signed(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return 8-bit values as numbers in [-1, 1]."""
    return images.float() / 127.5 - 1


def unsigned(images: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Return numbers in [-1, 1] as 8-bit values; others are clipped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_pictures(count: int, size: int, processes: int) -> None:
    """Refuse pictures whose chunks do not fit into memory, before anything is written.

    Raises:
        InputError: if there is too little, or the size is none of rooms.
    """
    check_size(size)
    at_once = max(1, min(processes, -(-count // CHUNK)))
    needed = at_once * size**2 * (PIXEL_BYTES + 2 * 3 * CHUNK)  # one by one, and as an array
    what = f"size {size} px: {at_once} x {CHUNK} pictures at once"
    require_bytes(needed, what, "choose a smaller --size")


def open_pictures(
    folder: Path,
    *,
    split: str,
    count: int,
    size: int,
    processes: int = 0,
    advance: Callable[[int], None] = lambda images: None,
) -> Pictures:
    """Return the first ``count`` rooms of a split; missing ones are rendered first.

    An interrupted call keeps the chunks that it has finished; a larger ``count`` adds to them.

    Args:
        folder: where the chunks lie, a folder for each split, size and version of the renderer.
        split: of rooms.
        count: images, rounded up to whole chunks on disk.
        size: side in pixels.
        processes: that render; 0 renders in this one.
        advance: called with the number of images that have become available.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """
    place = folder / f"{RENDERER_VERSION}-{split}-{size}"
    place.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-count // CHUNK))
    missing = [n for n in numbers if not _paths(place, n)[1].is_file()]
    advance(CHUNK * (len(numbers) - len(missing)))
    jobs = [(place, n, split, size) for n in missing]
    if processes and jobs:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for _ in pool.imap_unordered(_render, jobs):
                advance(CHUNK)
    else:
        for job in jobs:
            _render(job)
            advance(CHUNK)
    chunks = [_read(place, n, size) for n in numbers]
    captions = [caption for _, some in chunks for caption in some]
    return Pictures(place.name, [images for images, _ in chunks], tuple(captions), count)


def _paths(place: Path, number: int) -> tuple[Path, Path]:
    return place / f"{number:05d}.npy", place / f"{number:05d}.json"


def _render(job: tuple[Path, int, str, int]) -> None:
    place, number, split, size = job
    images, captions = _paths(place, number)
    rooms = [
        render_scene(index, split=split, size=size, labels=())
        for index in range(number * CHUNK, (number + 1) * CHUNK)
    ]
    with replacing(images) as partial, partial.open("wb") as file:
        np.save(file, np.stack([room.image for room in rooms]))
    # the captions come last: they make the chunk complete
    with replacing(captions) as partial:
        partial.write_text(json.dumps([room.caption for room in rooms]), encoding="utf-8")


def _read(place: Path, number: int, size: int) -> tuple[np.ndarray, list[str]]:
    images, captions = _paths(place, number)
    line = (
        f"not a whole chunk of pictures ({{reason}}): delete {captions.name} in its folder, so "
        "that it is rendered again"
    )
    with reading(images, line):
        texts = read_json(captions)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("its captions are no list of texts")
        pixels = map_rows(images, np.uint8)
        if len(texts) != CHUNK or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"{len(texts)} captions, pictures of shape {pixels.shape[1:]}")
        return pixels, texts


def map_rows(path: Path, kind: type[np.generic], axes: int = 4) -> np.ndarray:
    """Return the rows of a chunk, read from disk when they are used.

    Args:
        path: NPY file.
        kind: type of its numbers.
        axes: of the whole array.

    Raises:
        ValueError: if it holds anything else than arrays for every picture of a chunk.
    """
    try:
        rows = np.load(path, mmap_mode="r")
    except Exception as error:  # on odd headers the decoder raises more than its own errors
        raise ValueError(reason_of(error)) from None
    if not isinstance(rows, np.ndarray) or rows.ndim != axes or len(rows) != CHUNK:
        raise ValueError("it holds no arrays of a whole chunk")
    if rows.dtype != kind:
        raise ValueError(f"it holds numbers of type {rows.dtype}")
    return rows
