"""Render rooms with captions for the pretraining, and cache them on disk in chunks.

The pretraining uses only images and captions; no label is rendered.
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
from diffsight.ops.resize import resize_image
from diffsight.rooms import RENDERER_VERSION, render_scene
from diffsight.rooms.dataset import PIXEL_BYTES, check_size

CHUNK = 500  # pictures per file


@dataclass(frozen=True)
class Pictures:
    """The first rooms of a split at one size, with their captions.

    Attributes:
        name: renderer version, split and size.
        images: one memory-mapped array of ``CHUNK`` images per chunk.
        texts: captions of all images in the chunks.
        count: number of pictures; the last chunk may have more images.
    """

    name: str
    images: Sequence[UInt8[np.ndarray, "n 3 h w"]]
    texts: tuple[str, ...]
    count: int

    def __len__(self) -> int:
        """Number of pictures."""
        return self.count

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions of the pictures."""
        return self.texts[: self.count]

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.images[0].shape[-1]

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Return the image with this index."""
        return torch.from_numpy(self.images[index // CHUNK][index % CHUNK].copy())

    def at(self, indices: Sequence[int], size: int) -> UInt8[Tensor, "b 3 h w"]:
        """Return the images of several pictures, resized to ``size`` pixels per side.

        Pixels are averaged over squares if ``size`` divides the old side, else interpolated.
        """
        images = torch.stack([self.image(i) for i in indices])
        if self.size % size == 0:
            return average_pixels(images, self.size // size)
        return resize_image(images.float(), (size, size)).round().to(torch.uint8)


def average_pixels(images: UInt8[Tensor, "b 3 _ _"], factor: int) -> UInt8[Tensor, "b 3 _ _"]:
    """Return images reduced by ``factor``: each pixel is the mean colour of a square of pixels."""
    if factor == 1:
        return images
    return functional.avg_pool2d(images.float(), factor).round().to(torch.uint8)


def to_signed(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return 8-bit images as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_unsigned(images: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Return images in [-1, 1], clipped to this range, as 8-bit images."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_pictures(count: int, size: int, processes: int) -> None:
    """Check that the chunks of pictures fit into memory while they are rendered.

    Args:
        count: number of pictures.
        size: side in pixels.
        processes: number of processes that render.

    Raises:
        InputError: if there is too little memory, or rooms cannot have this size.
    """
    check_size(size)
    at_once = max(1, min(processes, -(-count // CHUNK)))
    needed = (
        at_once * size**2 * (PIXEL_BYTES + 2 * 3 * CHUNK)
    )  # a list of images, and the array made from it
    subject = f"size {size} px: {at_once} x {CHUNK} pictures at once"
    require_bytes(needed, subject, "choose a smaller --size")


def open_pictures(
    folder: Path,
    *,
    split: str,
    count: int,
    size: int,
    processes: int = 0,
    advance: Callable[[int], None] = lambda images: None,
) -> Pictures:
    """Return the first ``count`` rooms of a split, and render the missing chunks first.

    Finished chunks are kept if the call is interrupted, and used for a larger ``count``.

    Args:
        folder: folder of the cache, with a subfolder per split, size and renderer version.
        split: split of rooms.
        count: number of pictures; whole chunks are rendered.
        size: side in pixels.
        processes: number of processes that render; 0 renders in the calling process.
        advance: called with the number of images that have become available.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """
    chunks_folder = folder / f"{RENDERER_VERSION}-{split}-{size}"
    chunks_folder.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-count // CHUNK))
    missing = [n for n in numbers if not _chunk_paths(chunks_folder, n)[1].is_file()]
    advance(CHUNK * (len(numbers) - len(missing)))
    jobs = [(chunks_folder, n, split, size) for n in missing]
    if processes and jobs:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for _ in pool.imap_unordered(_render_chunk, jobs):
                advance(CHUNK)
    else:
        for job in jobs:
            _render_chunk(job)
            advance(CHUNK)
    chunks = [_read_chunk(chunks_folder, n, size) for n in numbers]
    captions = [caption for _, some in chunks for caption in some]
    return Pictures(chunks_folder.name, [images for images, _ in chunks], tuple(captions), count)


def _chunk_paths(chunks_folder: Path, number: int) -> tuple[Path, Path]:
    return chunks_folder / f"{number:05d}.npy", chunks_folder / f"{number:05d}.json"


def _render_chunk(job: tuple[Path, int, str, int]) -> None:
    chunks_folder, number, split, size = job
    images, captions = _chunk_paths(chunks_folder, number)
    rooms = [
        render_scene(index, split=split, size=size, labels=())
        for index in range(number * CHUNK, (number + 1) * CHUNK)
    ]
    with replacing(images) as partial, partial.open("wb") as file:
        np.save(file, np.stack([room.image for room in rooms]))
    # the captions are written last: their file marks the chunk as complete
    with replacing(captions) as partial:
        partial.write_text(json.dumps([room.caption for room in rooms]), encoding="utf-8")


def _read_chunk(chunks_folder: Path, number: int, size: int) -> tuple[np.ndarray, list[str]]:
    images, captions = _chunk_paths(chunks_folder, number)
    line = (
        f"not a whole chunk of pictures ({{reason}}): delete {captions.name} in its folder to "
        "render it again"
    )
    with reading(images, line):
        texts = read_json(captions)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("its captions are not a list of texts")
        pixels = map_rows(images, np.uint8)
        if len(texts) != CHUNK or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"{len(texts)} captions, pictures of shape {pixels.shape[1:]}")
        return pixels, texts


def map_rows(path: Path, kind: type[np.generic], axes: int = 4) -> np.ndarray:
    """Return the memory-mapped array of a chunk, with one row per picture.

    Args:
        path: NPY file.
        kind: type of its numbers.
        axes: number of axes of the array.

    Raises:
        ValueError: if the file has another type or number of axes, or not ``CHUNK`` rows.
    """
    try:
        rows = np.load(path, mmap_mode="r")
    except Exception as error:  # the decoder raises various errors on damaged headers
        raise ValueError(reason_of(error)) from None
    if not isinstance(rows, np.ndarray) or rows.ndim != axes or len(rows) != CHUNK:
        raise ValueError("not an array of a whole chunk")
    if rows.dtype != kind:
        raise ValueError(f"its numbers have type {rows.dtype}")
    return rows
