"""Load CLIP's text tower and tokenizer from the files of Stable Diffusion or CLIP."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from diffsight.errors import InputError
from diffsight.weights import (
    load_tower,
    locate,
    part_folder,
    read_checkpoint,
    read_config,
    read_folder,
)

CLIP = "openai/clip-vit-large-patch14"
"""CLIP model whose tokenizer Stable Diffusion 1.x and 2.x use; their original files have none."""
PARTS = ("tokenizer", "text_encoder")
KIND = "CLIP text model"
REPAIR = (
    "give a Stable Diffusion folder with text_encoder/ and tokenizer/, or a CLIP text model's "
    "folder"
)
# prefixes of the tower in original files of Stable Diffusion 1.x and 2.x (OpenCLIP)
LDM, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."


def load_text_encoder(encoder: str | Path) -> tuple[Any, Any]:
    """Return CLIP's tokenizer and text model; the model is in 32 bit and evaluation mode.

    Args:
        encoder: ``tiny``, the folder or hub id of a diffusers model (with ``text_encoder`` and
            ``tokenizer``) or of a CLIP model, or one original file of Stable Diffusion.

    Returns:
        The tokenizer, and the model without text projection. The model maps token ids ``b n`` to
        ``last_hidden_state`` and ``pooler_output``, both after the final layer norm.

    Raises:
        InputError: if tokenizer or model cannot be loaded.
    """
    return load_tokenizer(encoder), load_text_model(encoder)


def load_text_model(encoder: str | Path) -> Any:
    """Return only CLIP's text model.

    Args:
        encoder: as for ``load_text_encoder``.

    Raises:
        InputError: if the model cannot be loaded.
    """
    # transformers takes seconds to import, so it is imported only here
    from transformers import CLIPTextConfig, CLIPTextModel

    source = locate(encoder, PARTS)
    if source.is_file():
        config, state = _of_file(source)
    else:
        folder = part_folder(source, "text_encoder")
        config = read_config(
            CLIPTextConfig, folder, f"{encoder}: no {KIND} and tokenizer there", REPAIR
        )
        _, state = read_folder(folder)
    return load_tower(CLIPTextModel, config, state, encoder, KIND)


def load_tokenizer(encoder: str | Path) -> Any:
    """Return only CLIP's tokenizer.

    Args:
        encoder: as for ``load_text_encoder``. An original file has no tokenizer; it gets that of
            ``CLIP``.

    Raises:
        InputError: if the tokenizer cannot be loaded.
    """
    from transformers import CLIPTokenizer

    source = locate(encoder, PARTS)
    if source.is_dir():
        missing = f"{encoder}: no {KIND} and tokenizer there"
        folder, files = part_folder(source, "tokenizer"), ("vocab.json", "tokenizer.json")
        return read_config(CLIPTokenizer, folder, missing, REPAIR, files)
    try:
        tokenizer = load_tokenizer(CLIP)
    except InputError as error:
        raise InputError(
            f"{encoder}: one original file has no tokenizer, and CLIP's is not there ({error})"
        ) from None
    tokenizer.pad_token_id = _of_file(source)[0].pad_token_id
    return tokenizer


def _of_file(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the configuration and weights of the text tower in an original file.

    Raises:
        InputError: if the file has no text tower.
    """
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig

    tensors, _ = read_checkpoint(path)
    is_open_clip = any(key.startswith(OPEN_CLIP) for key in tensors)
    state = {k.removeprefix(LDM): v for k, v in tensors.items() if k.startswith(LDM)}
    try:
        if is_open_clip:
            width = len(tensors[OPEN_CLIP + "ln_final.weight"])
            shaped = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
            state = convert_open_clip_checkpoint(shaped, tensors, OPEN_CLIP)
        state = {key.removeprefix("text_model."): value for key, value in state.items()}
        vocabulary, width = state["embeddings.token_embedding.weight"].shape
        positions = len(state["embeddings.position_embedding.weight"])
        inner = len(state["encoder.layers.0.mlp.fc1.weight"])
    except KeyError as error:
        raise InputError(
            f"{path}: no {KIND} in it ({error.args[0]} is missing): {REPAIR}"
        ) from None
    except (TypeError, ValueError):  # a weight with another number of dimensions
        raise InputError(f"{path}: its {KIND} is damaged (wrong shapes): {REPAIR}") from None
    layers = len({key.split(".")[2] for key in state if key.startswith("encoder.layers.")})
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        # Stable Diffusion 2.x reads the penultimate layer of OpenCLIP
        num_hidden_layers=layers - 1 if is_open_clip else layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=positions,
        hidden_act="gelu" if is_open_clip else "quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0 if is_open_clip else vocabulary - 1,
    )
    return config, state
