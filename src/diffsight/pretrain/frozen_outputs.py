"""Cache the outputs of frozen networks for all pictures on disk, so that each is computed once."""

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
from diffsight.ops.resize import resize_image
from diffsight.pretrain.clip import standardise, tokenize
from diffsight.pretrain.folder import load_part
from diffsight.pretrain.pictures import CHUNK, Pictures, map_rows, to_signed

BATCH = {"cpu": 4, "cuda": 64}  # larger batches do not fit into the cache of a CPU
COMPONENTS = 96  # principal components that are kept of a teacher's features
CELLS = 16  # cells along a side of a teacher's features
COMPONENT_PICTURES = 500  # pictures whose features the components are computed from

OutputOf = Callable[[int], Float[Tensor, "..."]]
"""A function from the index of a picture to the cached output of a network."""
Encoder = Callable[[Sequence[int]], Float[Tensor, "b ..."]]
"""A function from the indices of pictures to a batch of outputs, which it computes."""


def open_latents(cache: Path, pictures: Pictures, vae: Path, size: int) -> OutputOf:
    """Return a function from a picture's index to its latent, ``c h w``.

    Args:
        cache: folder of the cache; every autoencoder has its own subfolder.
        pictures: pictures to encode.
        vae: folder of the autoencoder.
        size: side in pixels to which the pictures are resized.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """

    def load() -> Encoder:
        model: Any = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).float().eval()
        model.to(_best_device())

        def encode(indices: Sequence[int]) -> Tensor:
            pixels = to_signed(pictures.at(indices, size)).to(model.device)
            return model.encode(pixels).latent_dist.mode()

        return encode

    weights = (vae / "diffusion_pytorch_model.safetensors").read_bytes()
    folder = cache / f"latents-{pictures.name}-{size}-{hashlib.sha256(weights).hexdigest()[:12]}"
    return open_outputs(folder, pictures, load)


def open_text_features(
    cache: Path, pictures: Pictures, model: Path, stage: str
) -> tuple[OutputOf, Float[Tensor, "n c"]]:
    """Return a function from a picture's index to the text tower's output for its caption, ``n c``.

    Args:
        cache: folder of the cache; every tower has its own subfolder.
        pictures: pictures whose captions are encoded.
        model: diffusers folder with ``text_encoder/`` and ``tokenizer/``.
        stage: name of the stage that needs the tower, for the message.

    Returns:
        The function, and the output for an empty caption.

    Raises:
        InputError: if the tower is missing, or a file is damaged or cannot be written.
    """
    tower: Any = load_part(CLIPTextModelWithProjection, model, "text_encoder", stage).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Tensor:
        ids = tokenize(model, texts).to(tower.device)
        return tower(input_ids=ids).last_hidden_state

    def load() -> Encoder:
        tower.to(_best_device())
        return lambda indices: encode([pictures.texts[i] for i in indices])

    weights = (model / "text_encoder" / "model.safetensors").read_bytes()
    folder = cache / f"text-{pictures.name}-{hashlib.sha256(weights).hexdigest()[:12]}"
    return open_outputs(folder, pictures, load, axes=3), encode([""])[0].float().cpu()


def open_tower_features(cache: Path, pictures: Pictures, model: Path, stage: str) -> OutputOf:
    """Return a function from a picture's index to the features of the model's own vision tower.

    Args:
        cache: folder of the cache; every tower has its own subfolder.
        pictures: pictures to encode.
        model: diffusers folder with ``image_encoder/``.
        stage: name of the stage that needs the tower, for the message.

    Raises:
        InputError: if the tower is missing, or a file is damaged or cannot be written.
    """
    vision: Any = load_part(CLIPVisionModelWithProjection, model, "image_encoder", stage).eval()

    def load() -> Encoder:
        vision.to(_best_device())

        def encode(indices: Sequence[int]) -> Tensor:
            images = pictures.at(indices, vision.config.image_size)
            tokens = vision(pixel_values=standardise(images).to(vision.device)).last_hidden_state
            side = round((tokens.shape[1] - 1) ** 0.5)
            return tokens[:, 1:].mT.unflatten(2, (side, side))

        return encode

    weights = (model / "image_encoder" / "model.safetensors").read_bytes()
    folder = cache / f"tower-{pictures.name}-{hashlib.sha256(weights).hexdigest()[:12]}"
    return open_outputs(folder, pictures, load)


def open_teacher_features(cache: Path, pictures: Pictures, teacher: str) -> OutputOf:
    """Return a function from a picture's index to the features of a vision backbone, ``96 16 16``.

    All levels are resized to 16 x 16 cells and concatenated, every channel is standardised, and the
    first 96 principal components are kept.

    Args:
        cache: folder of the cache, for features and components.
        pictures: pictures to encode. The first 500 determine the components.
        teacher: name of the backbone and size of its input, such as ``efficientnet-lite0@256``.

    Raises:
        InputError: if the backbone is unknown, or a file is damaged or cannot be written.
    """
    source = BackboneSource(teacher)
    backbone, side = source.vision.to(_best_device()), source.short_side_px

    def features(indices: Sequence[int]) -> Float[Tensor, "b d h w"]:
        images = pictures.at(indices, pictures.size).float() / 255
        levels = backbone(resize_image(images, (side, side)).to(_best_device())).features
        return torch.cat([_resize_to_cells(level) for level in levels], dim=1)

    digest = hashlib.sha256()
    for value in backbone.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    folder = cache / f"teacher-{pictures.name}-{side}-{digest.hexdigest()[:12]}"

    def load() -> Encoder:
        path = folder / "components.safetensors"
        if not path.is_file():
            first = range(min(COMPONENT_PICTURES, len(pictures)))
            batch = BATCH[_best_device().type]
            rows = [features(first[i : i + batch]) for i in first[::batch]]
            parts = principal_components(torch.cat(rows), COMPONENTS)
            with replacing(path) as partial:
                save_file(parts, partial)
        parts = {key: value.to(_best_device()) for key, value in load_file(path).items()}

        def encode(indices: Sequence[int]) -> Tensor:
            x = features(indices) - parts["mean"][:, None, None]
            return torch.einsum("bchw,ck->bkhw", x, parts["components"])

        return encode

    return open_outputs(folder, pictures, load)


def principal_components(
    features: Float[Tensor, "b d h w"], count: int
) -> dict[str, Float[Tensor, " _ ..."]]:
    """Return the principal components of features, whose channels are standardised first.

    Args:
        features: features of several pictures.
        count: number k of components.

    Returns:
        ``mean`` (``d``, of every channel) and ``components`` (``d k``, by descending variance).
        ``(x - mean) @ components`` are the components of a pixel ``x``; this also standardises it.
    """
    rows = features.movedim(1, -1).flatten(0, 2).double()
    deviation, mean = torch.std_mean(rows, dim=0)
    scale = 1 / deviation.clamp(min=1e-6)
    standard = (rows - mean) * scale
    _, vectors = torch.linalg.eigh(standard.mT @ standard)  # in ascending order
    components = scale[:, None] * vectors.flip(1)[:, :count]
    return {"mean": mean.float(), "components": components.float().contiguous()}


def open_outputs(
    folder: Path, pictures: Pictures, load: Callable[[], Encoder], *, axes: int = 4
) -> OutputOf:
    """Return a function from a picture's index to the output of a frozen network.

    Missing chunks of outputs are computed first; the devices share the work.

    Args:
        folder: folder of the chunks for this network and these pictures.
        pictures: pictures to encode.
        load: function that loads the network and returns its encoder; called if a chunk is missing.
        axes: number of axes of a batch of outputs.

    Raises:
        InputError: if a file is damaged or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n:05d}.npy" for n in range(-(-len(pictures) // CHUNK))]
    own_chunks, is_distributed = slice(None), torch.distributed.is_initialized()
    if is_distributed:
        own_chunks = slice(torch.distributed.get_rank(), None, torch.distributed.get_world_size())
    missing = [n for n in range(len(paths))[own_chunks] if not paths[n].is_file()]
    if missing:
        with torch.inference_mode():
            encode = load()
            console = Console(stderr=True)
            with Progress(console=console, disable=not console.is_terminal) as bar:
                for n in bar.track(missing, description=f"encoding {pictures.name}"):
                    with replacing(paths[n]) as partial, partial.open("wb") as file:
                        np.save(file, _encode_chunk(encode, n))
    if is_distributed:
        torch.distributed.barrier()
    chunks = [_read_chunk(path, axes) for path in paths]
    return lambda i: torch.from_numpy(chunks[i // CHUNK][i % CHUNK].astype(np.float32))


def _best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _resize_to_cells(level: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b c h w"]:
    """Return a level of features resized to ``CELLS`` x ``CELLS``, averaged or interpolated."""
    if level.shape[-1] >= CELLS:
        return functional.adaptive_avg_pool2d(level, CELLS)
    return functional.interpolate(level, (CELLS, CELLS), mode="bilinear")


def _read_chunk(path: Path, axes: int) -> np.ndarray:
    line = "not a whole chunk of outputs ({reason}): delete it to compute it again"
    with reading(path, line):
        return map_rows(path, np.float16, axes)


def _encode_chunk(encode: Encoder, number: int) -> Float[np.ndarray, "n ..."]:
    """Return the outputs for all images of a chunk, including those beyond the last picture."""
    rows, batch = [], BATCH[_best_device().type]
    for first in range(number * CHUNK, (number + 1) * CHUNK, batch):
        indices = range(first, min(first + batch, (number + 1) * CHUNK))
        rows.append(encode(indices).half().cpu().numpy())
    return np.concatenate(rows)
