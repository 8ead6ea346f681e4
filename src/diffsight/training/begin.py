"""A training that begins with the weights of a saved model."""

import logging

import torch

from diffsight import hub
from diffsight.errors import InputError
from diffsight.model import DenseModel

METHOD = "method."
NAMED = 3  # tensors that a line lists
log = logging.getLogger(__name__)


@torch.no_grad()
def begin_with(model: DenseModel, source: str) -> None:
    """Copy the weights of a saved model's method that have the same names and shapes.

    All others start as they would without it, such as the last layers of another list of classes;
    the log names them. What a task has fitted to its labels stays.

    Args:
        model: to be trained.
        source: folder or file of a saved model, or a hub id.

    Raises:
        InputError: if it cannot be loaded, or nothing in it fits.
    """
    theirs = hub.load(source).state_dict()
    ours = {k: v for k, v in model.state_dict().items() if k.startswith(METHOD)}
    fitting = {k: theirs[k] for k, v in ours.items() if k in theirs and theirs[k].shape == v.shape}
    if not fitting:
        raise InputError(f"{source}: none of its weights fits the model: begin with another one")
    model.load_state_dict(fitting, strict=False)
    anew = [name.removeprefix(METHOD) for name in ours if name not in fitting]
    more = ", ..." if len(anew) > NAMED else ""
    rest = f"; new: {', '.join(anew[:NAMED])}{more}" if anew else ""
    log.info("%s: %d of %d tensors are its%s", source, len(fitting), len(ours), rest)
