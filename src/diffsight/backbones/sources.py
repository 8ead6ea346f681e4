"""Where weights come from: the package, a diffusers folder, a hub id, or one original file.

Nothing is unpickled that could run code.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import Tensor, nn

from diffsight import assets
from diffsight.backbones.ldm_keys import (
    KeyReport,
    folder_key,
    unet_key,
    unet_prefixes,
    vae_encoder_key,
    vae_value,
)
from diffsight.errors import InputError
from diffsight.formats.tensors import NotPlainError, is_dense, load_torch, read_safetensors
from diffsight.formats.text import reason_of

Part = Literal["unet", "vae"]
LDM_PREFIX: Mapping[Part, str] = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
_STEM = "diffusion_pytorch_model"
TOWERS = (
    "tokenizer/*",
    *(
        f"{part}/{file}"
        for part in ("text_encoder", "image_encoder")
        for file in ("config.json", "preprocessor_config.json", "model.safetensors")
    ),
)
_SUFFIXES = ("safetensors", "fp16.safetensors", "bin", "fp16.bin")


class _Inert:
    """Stands for an object beside the tensors: nothing of the class that it names is imported."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# what original files hold beside tensors: settings in VPD's and EVP's referring checkpoints, a
# callback and its scores in those of Stable Diffusion 1.x
_BESIDE = (
    "argparse.Namespace",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


def read_tensors(path: Path) -> Any:
    """The contents of a ``.safetensors`` file, or of a torch checkpoint read with
    ``weights_only=True``; the few classes that original files name beside tensors become empty
    objects.

    Raises:
        InputError: if the file is missing, truncated, or names any other class.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        size = f"{path.stat().st_size:,} bytes"
        return read_safetensors(
            path,
            f"not a complete safetensors file ({size}, {{reason}}): download or copy it again",
        )
    try:
        return load_torch(path, mmap=True, allowed=[(_Inert, name) for name in _BESIDE])
    except NotPlainError as error:
        raise InputError(
            f"{path}: refused, because it holds more than tensors and could run code when "
            f"loaded ({error}): "
            "get a .safetensors file, or save its tensors alone with the program that wrote it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({reason_of(error)}): copy it again"
        ) from None


def locate(source: str | Path, *, towers: bool = False, revision: str | None = None) -> Path:
    """The local folder or file that ``source`` names.

    A hub id is fetched (or found in the cache) first, at ``revision``, with ``towers`` its text and
    image encoders too, where it has them. ``tiny`` is the embedded model; a folder of that name is
    ``./tiny``.

    Raises:
        InputError: if it is neither a path nor a hub id that can be had, or the embedded model is
            damaged.
    """
    if source in assets.NAMES:
        return assets.find(str(source))
    path = Path(source)
    if path.exists():
        return path
    neither = f"{source}: no such file or folder, and not a hub id of the form owner/name"
    weights = path.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
    if weights or str(source).count("/") != 1:
        raise InputError(neither)
    with _hub_errors(source):
        return _fetch(str(source), TOWERS if towers else (), revision)


@contextlib.contextmanager
def _hub_errors(source: str | Path) -> Iterator[None]:
    """One line for whatever keeps a hub id from being fetched."""
    try:
        yield
    except HFValidationError:
        raise InputError(
            f"{source}: no such file or folder, and not a hub id of the form owner/name"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{source}: the hub has no such model: check the spelling") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{source}: not on this machine and the hub cannot be reached "
            f"({type(error).__name__}): give a local folder or file"
        ) from None


def locate_vision(source: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a network of transformers; a hub id is fetched first.

    Raises:
        InputError: if it is neither a folder nor a hub id that can be had.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if str(source).count("/") != 1:
        raise InputError(f"{source}: no such folder, and not a hub id of the form owner/name")
    with _hub_errors(source):
        wanted = ["config.json", "preprocessor_config.json", "*.safetensors"]
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))


def _fetch(name: str, beside: Sequence[str], revision: str | None) -> Path:
    """The folder of a hub id, with one file of weights for each part."""
    folder = Path()
    for suffix in _SUFFIXES:
        files = [f"{part}/{_STEM}.{suffix}" for part in LDM_PREFIX]
        configs = [f"{part}/config.json" for part in LDM_PREFIX]
        wanted = [*configs, *files, *beside]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
        if all((folder / file).is_file() for file in files):
            break
    for tower in {Path(file).parent for file in beside if (folder / file).is_file()}:
        if not any((folder / tower).glob("*.safetensors")):
            weights = [f"{tower}/pytorch_model.bin"]
            snapshot_download(name, revision=revision, allow_patterns=weights)
    return folder


def load_part(module: nn.Module, part: Part, source: Path) -> KeyReport:
    """Fill ``module`` (built on the meta device or not) from ``source``.

    Raises:
        InputError: if the weights are not there, or are of another architecture.
    """
    wanted = module.state_dict()
    if source.is_dir():
        name = _weight_file(source / part)
        entries, rename = _tensors_of(name, read_tensors(name)), folder_key
    else:
        name = source
        entries, rename = _ldm_entries(source, part), ldm_renamer(module, part)
    report, state = KeyReport(), {}
    for key, value in entries.items():
        target = rename(key)
        if target not in wanted:
            report.dropped[key] = "not part of the trunk or of the encoder"
            continue
        report.used[key] = target
        state[target] = vae_value(target, value) if part == "vae" else value
    report.missing = [key for key in wanted if key not in state]
    _check(name, part, wanted, state, report)
    dtype = torch.get_default_dtype()
    module.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
    return report


def ldm_renamer(module: nn.Module, part: Part) -> Callable[[str], str | None]:
    """The function from original names (without prefix) to the names of ``module``."""
    if part == "vae":
        return vae_encoder_key
    down: Any = module.get_submodule("down_blocks")
    kinds = [any(name == "attentions" for name, _ in block.named_children()) for block in down]
    prefixes = unet_prefixes(len(down), len(down[0].resnets), kinds)
    return lambda key: unet_key(key, prefixes)


def _weight_file(folder: Path) -> Path:
    for suffix in _SUFFIXES:
        path = folder / f"{_STEM}.{suffix}"
        if path.is_file():
            return path
    raise InputError(f"{folder}: no {_STEM}.safetensors in it: is this a diffusers model folder?")


def _tensors_of(path: Path, state: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict; what else lies in it is of no network."""
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return {name: one for name, one in state.items() if isinstance(name, str) and is_dense(one)}


def _ldm_entries(path: Path, part: Part) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    if isinstance(tensors, Mapping):
        tensors = tensors.get("state_dict", tensors)
    tensors = _tensors_of(path, tensors)
    prefix = LDM_PREFIX[part]
    found = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    if not found:
        raise InputError(
            f"{path}: no entry begins with {prefix}: is it a Stable Diffusion checkpoint?"
        )
    return found


def _check(
    path: Path,
    part: Part,
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    report: KeyReport,
) -> None:
    if report.missing:
        raise InputError(
            f"{path}: {len(report.missing)} entries of the {part} are missing, first "
            f"{report.missing[0]}: "
            "is the architecture argument right?"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise InputError(
                f"{path}: {key} has shape {tuple(value.shape)}, the architecture wants "
                f"{tuple(wanted[key].shape)}: choose the architecture of these weights (sd15, "
                f"sd21 ...)"
            )
