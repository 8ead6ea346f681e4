"""Latents of pictures on disk: the autoencoder is frozen by then, so each is computed once."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from diffusers import AutoencoderKL
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.formats.text import reading
from diffsight.pretrain.pictures import CHUNK, Pictures, map_rows, signed

BATCH = 50


def open_latents(
    cache: Path, pictures: Pictures, vae: Path, size: int
) -> Callable[[int], Float[Tensor, "4 h w"]]:
    """Return a function from a picture's index to its latent.

    What is missing is encoded first, a chunk at a time, and shared out among the devices; another
    autoencoder gets another folder.

    Args:
        cache: where the chunks lie.
        pictures: what to encode.
        vae: folder of the autoencoder.
        size: side to which pictures are brought, in pixels.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """
    weights = (vae / "diffusion_pytorch_model.safetensors").read_bytes()
    place = cache / f"latents-{pictures.name}-{size}-{hashlib.sha256(weights).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{n:05d}.npy" for n in range(-(-len(pictures) // CHUNK))]
    mine, together = slice(None), torch.distributed.is_initialized()  # by a stage before
    if together:
        mine = slice(torch.distributed.get_rank(), None, torch.distributed.get_world_size())
    missing = [n for n in range(len(paths))[mine] if not paths[n].is_file()]
    if missing:
        model: Any = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).float().eval()
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            for n in bar.track(missing, description=f"latents of {pictures.name}"):
                with replacing(paths[n]) as partial, partial.open("wb") as file:
                    np.save(file, _encoded(model, pictures, n, size))
    if together:
        torch.distributed.barrier()
    chunks = [_read(path) for path in paths]
    return lambda i: torch.from_numpy(chunks[i // CHUNK][i % CHUNK].astype(np.float32))


def _read(path: Path) -> np.ndarray:
    line = "not a whole chunk of latents ({reason}): delete it, so that it is computed again"
    with reading(path, line):
        return map_rows(path, np.float16)


@torch.inference_mode()
def _encoded(
    model: Any, pictures: Pictures, number: int, size: int
) -> Float[np.ndarray, "n 4 h w"]:
    last = min((number + 1) * CHUNK, len(pictures.images) * CHUNK)
    rows = []
    for first in range(number * CHUNK, last, BATCH):
        images = pictures.at(range(first, min(first + BATCH, last)), size)
        latent = model.encode(signed(images).to(model.device)).latent_dist.mode()
        rows.append(latent.half().cpu().numpy())
    return np.concatenate(rows)
