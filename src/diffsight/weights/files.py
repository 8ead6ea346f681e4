"""Read and write tensors in files. Nothing is unpickled that could run code."""

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
VARIANTS = (None, ".fp32", ".fp16", ".bf16")  # best first; others come behind them
WRAPPERS = re.compile(r"((module|_orig_mod)\.)+")  # of DataParallel and of torch.compile


class _Inert:
    """Stands for an object next to the tensors: the class that it names is not imported."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# what original files hold next to tensors: settings in VPD's and EVP's referring checkpoints, a
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

    The few classes that original files name next to tensors become empty objects.

    Raises:
        InputError: if the file is missing, truncated, or names any other class.
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
            f"{path}: refused, because it holds more than tensors and could run code when loaded "
            f"({error}): get a .safetensors file, or save its tensors alone with the program that "
            "wrote it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({reason_of(error)}): copy it again"
        ) from None


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state dict inside a file, and the reasons why other entries are dropped.

    The state dict is the file itself, or under ``model`` or ``state_dict``. The prefixes
    ``module.`` and ``_orig_mod.`` are removed from its names.

    Raises:
        InputError: if the file cannot be read safely, holds no tensors, or gives an entry twice
            with different values.
    """
    container: Any = _read(Path(path))
    dropped: dict[str, str] = {}
    for wrapper in ("model", "state_dict"):
        if isinstance(container, Mapping) and isinstance(container.get(wrapper), Mapping):
            reason = f"beside {wrapper}, which holds the weights"
            dropped |= {str(key): reason for key in container if key != wrapper}
            container = container[wrapper]
    if not isinstance(container, Mapping):
        raise InputError(f"{path}: holds a {type(container).__name__}, not a state dict")
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
        raise InputError(f"{path}: no tensors in it: is it a checkpoint?")
    return tensors, dropped


def weight_files(names: Iterable[str]) -> list[str]:
    """Return the files of one folder that together hold its weights; empty if there are none.

    Where a folder has several copies, safetensors come before pickles, 32 bit before 16, and
    averaged weights before those without averaging (``non_ema``).

    Args:
        names: of the files in the folder, in diffusers' or transformers' layout. Each copy may be
            in several files (``model-00001-of-00002.safetensors``).

    Raises:
        InputError: if files of the only copy are missing.
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
            f"{files[0]}: only {len(files)} of {key[-1]} files of these weights are there: "
            "download or copy the others"
        )
    return []


def variant_of(folder: Path) -> str | None:
    """Return the ``variant`` (``fp16`` ...) under which a folder's weights are saved, if any.

    Raises:
        InputError: if files of the only copy are missing.
    """
    files = weight_files(path.name for path in folder.glob("*"))
    match = WEIGHTS.fullmatch(SHARD.sub("", files[0])) if files else None
    return match[2][1:] if match and match[2] else None


def read_folder(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the state dict of the weights in a folder, and their first file.

    Raises:
        InputError: if there are none, or they cannot be read safely.
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


def require_finite(tensors: Iterable[tuple[str, Tensor]], where: str | Path) -> None:
    """Refuse weights with infinite values or NaN.

    Args:
        tensors: names and values; those on the meta device have none and pass.
        where: whose weights they are, for the message.

    Raises:
        InputError: if one of them is not finite; it names the first.
    """
    for name, value in tensors:
        # the extremes need one pass and no copy; NaN is passed on
        if value.is_floating_point() and value.numel() and not value.is_meta:
            low, high = value.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise InputError(
                    f"the weights of {where} are not finite (first {name}): copy or download them "
                    "again, or give others"
                )


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; equal tensors and metadata give equal files.

    Raises:
        OSError: if it cannot be written.
    """
    metadata = dict(metadata or {"format": "pt"})
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({n: v.detach().cpu().contiguous() for n, v in tensors.items()}, path, metadata)
        if len(metadata) > 1:
            _sort_metadata(path)
        path.chmod(mode)  # safetensors makes files that only their owner may read
    except SafetensorError as error:
        # safetensors reports a full disk in a text of its own
        code = re.search(r"os error (\d+)", str(error))
        number = int(code.group(1)) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None


def _sort_metadata(path: Path) -> None:
    """Rewrite the header of a safetensors file, whose metadata have another order in every run."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)
