"""Outputs of frozen networks for pictures and captions, on disk: each is computed once."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from diffusers import AutoencoderKL
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from diffsight.atomic import replacing
from diffsight.backbones import BackboneSource
from diffsight.formats.text import reading
from diffsight.ops.resize import resized_image
from diffsight.pretrain.clip import standardised, tokenized
from diffsight.pretrain.folder import load_part
from diffsight.pretrain.pictures import CHUNK, Pictures, map_rows, signed

BATCH = {"cpu": 4, "cuda": 64}  # larger ones do not fit into the caches of a CPU
COMPONENTS = 96  # of a teacher's features
CELLS = 16  # of a teacher's features, along a side
ANALYSED = 500  # pictures whose features the components are computed from

OutputOf = Callable[[int], Float[Tensor, "..."]]  # for the index of a picture
Encoder = Callable[[Sequence[int]], Float[Tensor, "b ..."]]


def open_latents(cache: Path, pictures: Pictures, vae: Path, size: int) -> OutputOf:
    """Return a function from a picture's index to its latent.

    Args:
        cache: where the latents lie; another autoencoder gets another folder.
        pictures: what to encode.
        vae: folder of the autoencoder.
        size: side to which pictures are brought, in pixels.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """

    def load() -> Encoder:
        model: Any = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).float().eval()
        model.to(_device())

        def encode(indices: Sequence[int]) -> Tensor:
            pixels = signed(pictures.at(indices, size)).to(model.device)
            return model.encode(pixels).latent_dist.mode()

        return encode

    weights = (vae / "diffusion_pytorch_model.safetensors").read_bytes()
    place = cache / f"latents-{pictures.name}-{size}-{hashlib.sha256(weights).hexdigest()[:12]}"
    return open_outputs(place, pictures, load)


def open_text_features(
    cache: Path, pictures: Pictures, model: Path, by: str
) -> tuple[OutputOf, Float[Tensor, "n c"]]:
    """Return a function from a picture's index to the text tower's output for its caption.

    Args:
        cache: where the outputs lie; another tower gets another folder.
        pictures: whose captions are encoded.
        model: diffusers folder with ``text_encoder/`` and ``tokenizer/``.
        by: name of the stage.

    Returns:
        The function, and the output for an empty caption.

    Raises:
        InputError: if there is no tower, or a file is damaged or cannot be written.
    """
    tower: Any = load_part(CLIPTextModelWithProjection, model, "text_encoder", by).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Tensor:
        ids = tokenized(model, texts).to(tower.device)
        return tower(input_ids=ids).last_hidden_state

    def load() -> Encoder:
        tower.to(_device())
        return lambda indices: encode([pictures.texts[i] for i in indices])

    weights = (model / "text_encoder" / "model.safetensors").read_bytes()
    place = cache / f"text-{pictures.name}-{hashlib.sha256(weights).hexdigest()[:12]}"
    return open_outputs(place, pictures, load, axes=3), encode([""])[0].float().cpu()


def open_tower_features(cache: Path, pictures: Pictures, model: Path, by: str) -> OutputOf:
    """Return a function from a picture's index to the features of the model's own vision tower.

    Args:
        cache: where the features lie; another tower gets another folder.
        pictures: what to encode.
        model: diffusers folder with ``image_encoder/``.
        by: name of the stage.

    Raises:
        InputError: if there is no tower, or a file is damaged or cannot be written.
    """
    vision: Any = load_part(CLIPVisionModelWithProjection, model, "image_encoder", by).eval()

    def load() -> Encoder:
        vision.to(_device())

        def encode(indices: Sequence[int]) -> Tensor:
            images = pictures.at(indices, vision.config.image_size)
            tokens = vision(pixel_values=standardised(images).to(vision.device)).last_hidden_state
            side = round((tokens.shape[1] - 1) ** 0.5)
            return tokens[:, 1:].mT.unflatten(2, (side, side))

        return encode

    weights = (model / "image_encoder" / "model.safetensors").read_bytes()
    place = cache / f"tower-{pictures.name}-{hashlib.sha256(weights).hexdigest()[:12]}"
    return open_outputs(place, pictures, load)


def open_teacher_features(cache: Path, pictures: Pictures, teacher: str) -> OutputOf:
    """Return a function from a picture's index to the features of a vision backbone.

    All levels are brought to 16 x 16 cells, every channel is standardised, and the first 96
    principal components are kept.

    Args:
        cache: where the features lie, and the components.
        pictures: what to encode; the components are of the first of them.
        teacher: name of the backbone with the size of the image that it sees, as
            ``efficientnet-lite0@256``.

    Raises:
        InputError: if there is no such backbone, or a file is damaged or cannot be written.
    """
    source = BackboneSource(teacher)
    backbone, side = source.vision.to(_device()), source.short_side_px

    def features(indices: Sequence[int]) -> Float[Tensor, "b d h w"]:
        images = pictures.at(indices, pictures.size).float() / 255
        levels = backbone(resized_image(images, (side, side)).to(_device())).features
        return torch.cat([_at_cells(level) for level in levels], dim=1)

    digest = hashlib.sha256()
    for value in backbone.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    place = cache / f"teacher-{pictures.name}-{side}-{digest.hexdigest()[:12]}"

    def load() -> Encoder:
        path = place / "components.safetensors"
        if not path.is_file():
            first = range(min(ANALYSED, len(pictures)))
            batch = BATCH[_device().type]
            rows = [features(first[i : i + batch]) for i in first[::batch]]
            parts = principal_components(torch.cat(rows), COMPONENTS)
            with replacing(path) as partial:
                save_file(parts, partial)
        parts = {key: value.to(_device()) for key, value in load_file(path).items()}

        def encode(indices: Sequence[int]) -> Tensor:
            x = features(indices) - parts["mean"][:, None, None]
            return torch.einsum("bchw,ck->bkhw", x, parts["components"])

        return encode

    return open_outputs(place, pictures, load)


def principal_components(
    features: Float[Tensor, "b d h w"], count: int
) -> dict[str, Float[Tensor, " _ ..."]]:
    """Return ``mean`` of every channel, and ``components`` of standardised channels, ``d k``.

    ``(x - mean) @ components`` are the coordinates of the pixels ``x``. Their variances add up to
    that of the first ``count`` principal components; the first is the largest.
    """
    rows = features.movedim(1, -1).flatten(0, 2).double()
    deviation, mean = torch.std_mean(rows, dim=0)
    scale = 1 / deviation.clamp(min=1e-6)
    standard = (rows - mean) * scale
    _, vectors = torch.linalg.eigh(standard.mT @ standard)  # the largest come last
    components = scale[:, None] * vectors.flip(1)[:, :count]
    return {"mean": mean.float(), "components": components.float().contiguous()}


def open_outputs(
    place: Path, pictures: Pictures, load: Callable[[], Encoder], *, axes: int = 4
) -> OutputOf:
    """Return a function from a picture's index to what a frozen network makes of it.

    What is missing is encoded first, a chunk at a time, and shared out among the devices.

    Args:
        place: folder of the chunks, of this network and these pictures alone.
        pictures: what to encode.
        load: returns a function from indices to outputs; it is called if something is missing.
        axes: of the outputs of several pictures.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{n:05d}.npy" for n in range(-(-len(pictures) // CHUNK))]
    mine, together = slice(None), torch.distributed.is_initialized()  # by a stage before
    if together:
        mine = slice(torch.distributed.get_rank(), None, torch.distributed.get_world_size())
    missing = [n for n in range(len(paths))[mine] if not paths[n].is_file()]
    if missing:
        with torch.inference_mode():
            encode = load()
            console = Console(stderr=True)
            with Progress(console=console, disable=not console.is_terminal) as bar:
                for n in bar.track(missing, description=f"encoding {pictures.name}"):
                    with replacing(paths[n]) as partial, partial.open("wb") as file:
                        np.save(file, _encoded(encode, n))
    if together:
        torch.distributed.barrier()
    chunks = [_read(path, axes) for path in paths]
    return lambda i: torch.from_numpy(chunks[i // CHUNK][i % CHUNK].astype(np.float32))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _at_cells(level: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b c h w"]:
    """Return a level averaged, or interpolated, to the cells of a teacher's features."""
    if level.shape[-1] >= CELLS:
        return functional.adaptive_avg_pool2d(level, CELLS)
    return functional.interpolate(level, (CELLS, CELLS), mode="bilinear")


def _read(path: Path, axes: int) -> np.ndarray:
    line = "not a whole chunk of outputs ({reason}): delete it, so that it is computed again"
    with reading(path, line):
        return map_rows(path, np.float16, axes)


def _encoded(encode: Encoder, number: int) -> Float[np.ndarray, "n ..."]:
    """Return the outputs for a whole chunk, also of pictures beyond the range."""
    rows, batch = [], BATCH[_device().type]
    for first in range(number * CHUNK, (number + 1) * CHUNK, batch):
        indices = range(first, min(first + batch, (number + 1) * CHUNK))
        rows.append(encode(indices).half().cpu().numpy())
    return np.concatenate(rows)
