"""Start a training from the weights of a saved model."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffsight import hub
from diffsight.config import Configurable, to_config
from diffsight.errors import InputError
from diffsight.model import DenseModel

METHOD = "method."
NAMED = 3  # tensors of each list that the log names
log = logging.getLogger(__name__)


@torch.no_grad()
def begin_with(model: DenseModel, source: str) -> dict[str, Tensor]:
    """Copy the weights of a saved model's method whose names and shapes occur in ``model``.

    A frozen part that is changed loses its source, so that it is saved with the model.

    All other weights of ``model`` keep their initial values (for example the last layer, if the
    classes differ). Values that the task has fitted to its labels are never copied. The log lists
    the weights that keep their initial values, and those of the saved model that are not used. It
    warns if the methods differ in an argument that can be inferred from the names of their weights,
    such as a number of passes.

    Args:
        model: model that will be trained; its weights are changed in place.
        source: folder or file of a saved model, or a hub id.

    Returns:
        The copied weights by name.

    Raises:
        InputError: if the saved model cannot be loaded, or none of its weights can be copied.
    """
    start = hub.load(source, trusted=_packages(model))
    theirs = {k: v for k, v in start.state_dict().items() if k.startswith(METHOD)}
    ours = {k: v for k, v in model.state_dict().items() if k.startswith(METHOD)}
    fitting = {k: theirs[k] for k, v in ours.items() if k in theirs and theirs[k].shape == v.shape}
    if not fitting:
        raise InputError(
            f"{source}: none of its weights has a name and shape of the model to train: choose "
            "another saved model"
        )
    for path, part in model.method.frozen().items():
        inside = {name: ours[name] for name in fitting if name.startswith(f"{METHOD}{path}.")}
        if not all(torch.equal(fitting[name], value) for name, value in inside.items()):
            part.source = part.revision = None
    model.load_state_dict(fitting, strict=False)
    lists = {
        "new": [name for name in ours if name not in fitting],
        "unused": [name for name in theirs if name not in ours],
    }
    rest = "".join(f"; {title}: {_shorten(names)}" for title, names in lists.items() if names)
    log.info("%s: loaded %d of %d tensors%s", source, len(fitting), len(ours), rest)
    names = [name.removeprefix(METHOD) for name in (*ours, *theirs)]
    for argument in type(model.method).infer_arguments(names):
        given, own = (_arguments(one).get(argument) for one in (start, model))
        if given != own and given is not None:
            log.warning(
                "%s: saved with %r = %s, but the model to train has %s: only weights with the same "
                "names are loaded",
                *(source, argument, given, own),
            )
    return fitting


def _arguments(model: DenseModel) -> Mapping[str, Any]:
    """Return the arguments of a model's method as plain data."""
    call: Any = to_config(model.method)
    return call["init_args"]


def _packages(model: DenseModel) -> list[str]:
    """Return the packages whose classes the model already has, and the saved one may have too."""
    parts = (part for part in model.modules() if isinstance(part, Configurable))
    return sorted({type(part).__module__.partition(".")[0] for part in parts})


def _shorten(names: Sequence[str]) -> str:
    """Return the first names as text, followed by the number of the others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name.removeprefix(METHOD) for name in names[:NAMED]) + more
