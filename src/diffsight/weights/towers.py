"""Load networks of transformers (towers) from configurations and state dicts."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.weights.files import require_finite

OWN_NORMS = "hidden_states_norms."  # norms of feature maps, which checkpoints may lack


def read_config(
    cls: Any, folder: Path, missing: str, repair: str, files: Sequence[str] = ("config.json",)
) -> Any:
    """Return a configuration or a tokenizer of transformers, read from a folder.

    Args:
        cls: class of the configuration or the tokenizer.
        folder: folder with its files.
        missing: beginning of the error message, such as ``DIR: no CLIP text model there``.
        repair: end of the error message: what the user can do.
        files: files of which the folder must have one. Without any of them transformers would
            return default values.

    Raises:
        InputError: if the files are missing or damaged: ``MISSING (REASON): REPAIR``.
    """
    if not any((folder / file).is_file() for file in files):
        raise InputError(f"{missing} (no {files[0]} in {folder}): {repair}")
    try:
        return cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raise various errors on damaged files
        raise InputError(f"{missing} ({reason_of(error)}): {repair}") from None


def load_tower(
    cls: Any, config: Any, state: dict[str, Tensor], source: str | Path, kind: str
) -> Any:
    """Return a network of transformers in 32 bit and evaluation mode.

    Args:
        cls: class of the network.
        config: configuration of the network.
        state: weights, with the names of any version of transformers. Weights of other networks in
            the same checkpoint are ignored.
        source: file or model with the weights, for messages.
        kind: kind of the network for messages, such as ``CLIP text model``.

    Raises:
        InputError: if weights are missing, have another shape, or are not finite.
    """
    with report_errors(f"{source}: no {kind}"):
        model, report = _from_state(cls, config, state)
    missing = sorted(n for n in report["missing_keys"] if not n.startswith(OWN_NORMS))
    others = [*missing, *sorted(name for name, *_ in report["mismatched_keys"])]
    if others:
        reason = "missing" if missing else "of another shape"
        raise InputError(
            f"{source}: its {kind} is of another architecture ({others[0]} is {reason}): give the "
            "one that the model was trained with"
        )
    require_finite(model.state_dict().items(), source)
    return model.eval()


def network_names(cls: Any, config: Any, names: Sequence[str]) -> dict[str, str]:
    """Return the names that a network of transformers gives to the entries of a checkpoint.

    The installed version of transformers renames entries of other versions while it loads them, and
    does not report how. So entry ``i`` is loaded as an empty tensor with ``i`` rows, which is then
    listed under its new name as one of another shape.

    Args:
        cls: class of the network.
        config: configuration of the network.
        names: names of the entries, in any version of transformers.

    Returns:
        Names in the network by names of entries, without the entries that the network lacks.
    """
    _, report = _from_state(cls, config, {n: torch.empty(i, 0) for i, n in enumerate(names)})
    return {names[int(shape[0])]: name for name, shape, _ in report["mismatched_keys"]}


def _from_state(cls: Any, config: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """Return a network with the weights of a state dict, and transformers' report on its entries.

    Missing weights, and those of another shape, keep their initial values.
    """
    # the random initial weights are overwritten, so the random state is left unchanged
    with _quiet(), torch.random.fork_rng(devices=[]):
        return cls.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )


@contextlib.contextmanager
def report_errors(problem: str) -> Iterator[None]:
    """Return a context that turns a library's errors on a bad configuration into one line.

    Args:
        problem: beginning of the message: the configuration and what it lacks.

    Raises:
        InputError: for every error in the context: ``PROBLEM (REASON): give the folder of one``.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise various errors for sizes that do not fit
        raise InputError(f"{problem} ({reason_of(error)}): give the folder of one") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Return a context without the progress bar and the warnings of transformers."""
    from transformers.utils import logging as transformers_logging

    has_progress_bar, level = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if has_progress_bar:
            transformers_logging.enable_progress_bar()
