"""Read and write files of weights. Pickles that could run code are not loaded."""

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.tensors import NotPlainError, is_dense, load_torch, read_safetensors
from diffsight.formats.text import reason_of

WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(\.[\w-]+)?\.(safetensors|bin)", re.ASCII
)
SHARD = re.compile(r"-\d{5}-of-(\d{5})")
VARIANTS = (None, ".fp32", ".fp16", ".bf16")  # of weights, best first; others have a lower rank
WRAPPERS = re.compile(r"((module|_orig_mod)\.)+")  # prefixes of DataParallel and torch.compile


class _Inert:
    """An empty object instead of one of ``_INERT_CLASSES``, which are not imported."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# classes in original checkpoints: settings in those of VPD and EVP for referring segmentation, a
# callback and its scores in those of Stable Diffusion 1.x
_INERT_CLASSES = (
    "argparse.Namespace",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


def _read(path: Path) -> Any:
    """Return the contents of a ``.safetensors`` file, or of a torch checkpoint.

    Objects of ``_INERT_CLASSES`` are replaced by empty objects.

    Raises:
        InputError: if the file is missing or truncated, or has an object of any other class.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        size = f"{path.stat().st_size:,} bytes"
        line = f"not a complete safetensors file ({size}, {{reason}}): download or copy it again"
        return read_safetensors(path, line)
    try:
        return load_torch(path, mmap=True, allowed=[(_Inert, name) for name in _INERT_CLASSES])
    except NotPlainError as error:
        raise InputError(
            f"{path}: refused, because it has more than tensors and could run code when loaded "
            f"({error}): get a .safetensors file, or save its tensors alone with the program that "
            "wrote it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({reason_of(error)}): copy it again"
        ) from None


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state dict in a file, and the reason for each entry that is not part of it.

    The state dict is the whole file, or its entry ``model`` or ``state_dict``. The prefixes
    ``module.`` and ``_orig_mod.`` are removed from its names.

    Args:
        path: ``.safetensors`` file or torch checkpoint.

    Returns:
        Tensors by name, and reasons by the names of the other entries.

    Raises:
        InputError: if the file cannot be read safely, has no tensors, or has an entry twice with
            different values.
    """
    container: Any = _read(Path(path))
    dropped: dict[str, str] = {}
    for wrapper in ("model", "state_dict"):
        if isinstance(container, Mapping) and isinstance(container.get(wrapper), Mapping):
            reason = f"not part of {wrapper}, which has the weights"
            dropped |= {str(key): reason for key in container if key != wrapper}
            container = container[wrapper]
    if not isinstance(container, Mapping):
        raise InputError(
            f"{path}: holds a {type(container).__name__}, not a state dict: give a checkpoint"
        )
    tensors: dict[str, Tensor] = {}
    for key, value in container.items():
        prefix = WRAPPERS.match(str(key))
        name = str(key)[prefix.end() :] if prefix else str(key)
        if not is_dense(value):
            dropped[str(key)] = f"not a tensor: {type(value).__name__}"
        elif name not in tensors:
            tensors[name] = value
        elif tensors[name].dtype == value.dtype and torch.equal(tensors[name], value):
            dropped[f"module.{name}"] = f"equals {name}"
        else:
            raise InputError(
                f"{path}: {name} and module.{name} are not equal: remove the wrong one"
            )
    if not tensors:
        raise InputError(f"{path}: no tensors in it: give a checkpoint")
    return tensors, dropped


def weight_files(names: Iterable[str]) -> list[str]:
    """Return the names of the files with one copy of the weights; empty if there are no weights.

    If there are several copies, safetensors files are preferred to pickles, 32 bit to 16 bit, and
    averaged weights (EMA) to those without averaging (``non_ema``).

    Args:
        names: names of the files in a folder of diffusers or transformers. A copy may be split
            into several files (``model-00001-of-00002.safetensors``).

    Raises:
        InputError: if there are copies, but none is complete.
    """
    copies: dict[tuple[bool, bool, int, str, int], list[str]] = {}
    for name in sorted(names):
        shard = SHARD.search(name)
        match = WEIGHTS.fullmatch(SHARD.sub("", name))
        if match is None:
            continue
        variant, is_pickle = match[2] or "", match[3] == "bin"
        rank = VARIANTS.index(match[2]) if match[2] in VARIANTS else len(VARIANTS)
        total = int(shard[1]) if shard else 1
        key = ("non_ema" in variant, is_pickle, rank, SHARD.sub("", name), total)
        copies.setdefault(key, []).append(name)
    for key in sorted(copies):
        if len(copies[key]) == key[-1]:
            return copies[key]
    for key, files in sorted(copies.items()):
        raise InputError(
            f"{files[0]}: only {len(files)} of {key[-1]} files of these weights exist: "
            "download or copy the others"
        )
    return []


def variant_of(folder: Path) -> str | None:
    """Return the variant in the file names of a folder's weights, such as ``fp16``; None without.

    Raises:
        InputError: if no copy of the weights is complete.
    """
    files = weight_files(path.name for path in folder.glob("*"))
    match = WEIGHTS.fullmatch(SHARD.sub("", files[0])) if files else None
    return match[2][1:] if match and match[2] else None


def read_folder(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the path of the first file with weights in a folder, and the state dict of all files.

    Args:
        folder: folder of a model of diffusers or transformers.

    Raises:
        InputError: if the folder has no weights, or they cannot be read safely.
    """
    try:
        files = weight_files(path.name for path in folder.glob("*") if path.is_file())
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if not files:
        raise InputError(
            f"{folder}: no weights in it (model.safetensors, diffusion_pytorch_model.safetensors "
            "or the like): give the folder of a model of diffusers or transformers"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_checkpoint(folder / file)[0]
    return folder / files[0], state


def require_finite(tensors: Iterable[tuple[str, Tensor]], source: str | Path) -> None:
    """Refuse weights with infinite values or NaN.

    Args:
        tensors: names and values. Tensors on the meta device have no values and are skipped.
        source: file or model with the weights, for the message.

    Raises:
        InputError: if a tensor is not finite; the message names the first one.
    """
    for name, value in tensors:
        # minimum and maximum need one pass and no copy; with a NaN they are NaN
        if value.is_floating_point() and value.numel() and not value.is_meta:
            low, high = value.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise InputError(
                    f"the weights of {source} are not finite (first {name}): copy or download them "
                    "again, or give others"
                )


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Equal tensors and metadata give equal bytes.

    Args:
        tensors: tensors by name, on any device.
        path: file to write.
        metadata: texts by name; default: ``{"format": "pt"}``.

    Raises:
        OSError: if the file cannot be written.
    """
    metadata = dict(metadata or {"format": "pt"})
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({n: v.detach().cpu().contiguous() for n, v in tensors.items()}, path, metadata)
        if len(metadata) > 1:
            _sort_metadata(path)
        path.chmod(mode)  # safetensors makes files that only the owner can read
    except SafetensorError as error:
        # safetensors reports the operating system's error, such as a full disk, only as text
        code = re.search(r"os error (\d+)", str(error))
        number = int(code.group(1)) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file; their order differs between runs."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)
