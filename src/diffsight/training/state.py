"""Where an interrupted adaptation stands, in one file beside its task."""

import copy
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffsight.errors import InputError
from diffsight.training.checkpoints import KEY, AtomicCheckpoints, load

SAVE_SECONDS = 20.0
log = logging.getLogger(__name__)


def learned(method: nn.Module) -> dict[str, Tensor]:
    """What learns."""
    return {name: p.detach() for name, p in method.named_parameters() if p.requires_grad}


def restore(method: nn.Module, values: Mapping[str, Tensor]) -> None:
    """The inverse."""
    with torch.no_grad():
        for name, value in values.items():
            method.get_parameter(name).copy_(value)


@dataclass
class AdaptState:
    """Finished trainings with what they showed, and the one that is under way.

    Attributes:
        path: of the file; None keeps nothing.
        key: of all that decides the result; another key is another adaptation.
        plan: steps of every training, by method.
        runs: finished trainings: ``learned`` and, where images were held out, ``sums`` and
            ``blind``.
        current: ``run``, ``step``, ``learned``, ``optimiser`` of the one under way.
    """

    path: Path | None
    key: str
    plan: dict[str, int] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    current: dict[str, Any] = field(default_factory=dict)
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path | None, decisive: Mapping[str, Any], resume: bool) -> "AdaptState":
        """A new one, or with ``resume`` the stored one.

        Raises:
            InputError: if there is none, it is damaged, or belongs to other images or options.
        """
        text = json.dumps(decisive, sort_keys=True, default=str)
        state = cls(path, hashlib.sha256(text.encode()).hexdigest())
        if not resume:
            return state
        if path is None or not path.is_file():
            raise InputError(f"{path}: nothing to resume: leave --resume out")
        try:
            stored = load(path)[KEY]
            if not isinstance(stored, dict):
                raise InputError("no state")
        except InputError:
            raise InputError(f"{path}: damaged: start anew without --resume") from None
        if stored.get("key") != state.key:
            raise InputError(
                f"{path}: belongs to other images, labels or options: give those again, or start "
                "anew without --resume"
            )
        state.plan, state.runs = stored["plan"], stored["runs"]
        state.current = stored["current"]
        return state

    def note(self, run: str, step: int, method: nn.Module, optimiser: Any) -> None:
        """A step is done; every so often the file is written."""
        if self.path is None or time.monotonic() - self._saved < SAVE_SECONDS:
            return
        self.stop(run, step, method, optimiser)

    def stop(self, run: str, step: int, method: nn.Module, optimiser: Any) -> None:
        """Write the file in the middle of a training.

        Copies: the training goes on, and what is kept may be written once more.
        """
        self.current = {"run": run, "step": step, "learned": copy.deepcopy(learned(method))}
        self.current["optimiser"] = copy.deepcopy(optimiser.state_dict())
        self.save()

    def finish(self, run: str, found: Mapping[str, Any]) -> None:
        """A training is finished."""
        self.runs[run], self.current = dict(found), {}
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all; a full disk does not end the training."""
        if self.path is None:
            return
        content = {"key": self.key, "plan": self.plan, "runs": self.runs, "current": self.current}
        try:
            AtomicCheckpoints().save_checkpoint({KEY: content}, self.path)
        except OSError as error:
            log.warning("%s: --resume would go on from there", error)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The file is of no more use."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
