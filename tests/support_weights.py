"""Rewrite a folder of safetensors files in the layouts in which weights are published."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.tiny_model import original_entries
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_original_file(path: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Write a small model as an original Stable Diffusion checkpoint; return its state dict."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    vae = AutoencoderKL.from_pretrained(folder / "vae").state_dict()
    state = original_entries(unet, vae, layers=2)
    state["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(3)
    save_file(state, path)
    return state


def _rename(variant: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.rename(path.with_suffix(f".{variant}.safetensors"))

    return change


def _pickle(suffix: str, prefix: str = "") -> Callable[[Path], None]:
    def change(path: Path) -> None:
        stem = "pytorch_model" if path.stem == "model" else path.stem
        state = {prefix + name: value for name, value in load_file(path).items()}
        torch.save(state, path.with_name(f"{stem}{suffix}"))
        path.unlink()

    return change


def rewrite(state: dict[str, Tensor], path: Path) -> None:
    """Write a file again; it is deleted first, because tensors may still be mapped to it."""
    path.unlink()
    save_file(state, path)


def _prefix(path: Path) -> None:
    rewrite({f"module.{name}": value for name, value in load_file(path).items()}, path)


def _shard(pattern: str) -> Callable[[Path], None]:
    """Return a function that splits a file of weights into three shards with an index."""

    def change(path: Path) -> None:
        state = load_file(path)
        names = sorted(state)
        index = {}
        for i in range(3):
            file = pattern.format(stem=path.stem, shard=f"{i + 1:05}-of-00003")
            part = {name: state[name] for name in names[i::3]}
            save_file(part, path.with_name(file))
            index |= dict.fromkeys(part, file)
        path.with_name(f"{path.name}.index.json").write_text(
            json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
        )
        path.unlink()

    return change


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "fp16": _rename("fp16"),
    "bf16": _rename("bf16"),
    "non_ema": _rename("non_ema"),
    "other variant": _rename("v2-mine"),
    "sharded": _shard("{stem}-{shard}.safetensors"),
    "sharded fp16": _shard("{stem}.fp16-{shard}.safetensors"),
    "sharded fp16, old names": _shard("{stem}-{shard}.fp16.safetensors"),
    "pickle": _pickle(".bin"),
    "fp16 pickle": _pickle(".fp16.bin"),
    "pickle of DataParallel": _pickle(".bin", "module."),
    "pickle of torch.compile": _pickle(".bin", "module._orig_mod."),
    "safetensors of DataParallel": _prefix,
}
"""Names of layouts and the function that rewrites one file of weights in each."""


def rewrite_in_layout(folder: Path, layout: str) -> Path:
    """Rewrite all weights of a folder and its subfolders; ``layout`` is a key of ``LAYOUTS``."""
    for path in [*folder.rglob("*.safetensors")]:
        LAYOUTS[layout](path)
    return folder


def move_to_hub_cache(
    folder: Path, hub: Path, name: str = "owner/name", commit: str = "a" * 40
) -> Path:
    """Move a model folder into a hub cache, as the current commit; return its cache folder."""
    model = hub / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True, exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots").mkdir(exist_ok=True)
    folder.rename(model / "snapshots" / commit)
    return model


def have_equal_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Return whether two state dicts have the same names and values."""
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )
