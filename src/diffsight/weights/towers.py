"""Networks of transformers, filled with the weights of a folder."""

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

OWN_NORMS = "hidden_states_norms."  # of feature maps; checkpoints lack them, they change little


def read_config(
    cls: Any, folder: Path, missing: str, repair: str, files: Sequence[str] = ("config.json",)
) -> Any:
    """Return a configuration or a tokenizer of transformers.

    Args:
        cls: its class.
        folder: where its files are.
        missing: what is not there, for the message: ``DIR: no CLIP text model there``.
        repair: what the user can do.
        files: one of them must be there; without any transformers would invent the values.

    Raises:
        InputError: if it cannot be read.
    """
    if not any((folder / file).is_file() for file in files):
        raise InputError(f"{missing} (no {files[0]} in {folder}): {repair}")
    try:
        return cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # a tokenizer raises nothing narrow on a damaged file
        raise InputError(f"{missing} ({reason_of(error)}): {repair}") from None


def load_tower(
    cls: Any, config: Any, state: dict[str, Tensor], where: str | Path, kind: str
) -> Any:
    """Return a network of transformers in 32 bit and evaluation mode.

    Args:
        cls: class of the network.
        config: its configuration.
        state: its weights, under the names of any version of transformers. Those of other networks
            of the same checkpoint are ignored.
        where: whose weights they are, for messages.
        kind: of the network, for messages.

    Raises:
        InputError: if weights are missing, have another shape, or are not finite.
    """
    # the model's random start is overwritten
    with refused(f"{where}: no {kind}"), _quiet(), torch.random.fork_rng(devices=[]):
        model, report = cls.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    missing = sorted(n for n in report["missing_keys"] if not n.startswith(OWN_NORMS))
    others = [*missing, *sorted(name for name, *_ in report["mismatched_keys"])]
    if others:
        reason = "missing" if missing else "of another shape"
        raise InputError(
            f"{where}: its {kind} is of another architecture ({others[0]} is {reason}): give the "
            "one that was used"
        )
    require_finite(model.state_dict().items(), where)
    return model.eval()


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what a library raises on a configuration that it did not expect into one line.

    Args:
        what: whose configuration it is and what is not there, for the message.

    Raises:
        InputError: for every error inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of sizes that do not fit: anything
        raise InputError(f"{what} ({reason_of(error)}): give the folder of one") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar and the list of names that transformers shows for every file."""
    from transformers.utils import logging as theirs

    shown, level = theirs.is_progress_bar_enabled(), theirs.get_verbosity()
    theirs.disable_progress_bar()
    theirs.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if shown:
            theirs.enable_progress_bar()
