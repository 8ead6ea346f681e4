"""State of an interrupted adaptation, in the file from which ``--resume`` continues."""

import copy
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.tensors import is_dense
from diffsight.formats.text import reading, reason_of
from diffsight.model import DenseModel
from diffsight.training.checkpoints import KEY, AtomicCheckpoints, load
from diffsight.training.rng import restore_rng, rng_state

SAVE_SECONDS = 20.0  # shortest time between two writes of the file
AGAIN = "start again with --overwrite instead of --resume"
log = logging.getLogger(__name__)


def trained_state(model: DenseModel) -> dict[str, Tensor]:
    """Return every tensor of a model outside its frozen parts, buffers included."""
    return outside(model.state_dict(), (f"method.{path}." for path in model.method.frozen()))


def outside(state: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with none of the prefixes."""
    excluded = tuple(prefixes)
    return {name: value for name, value in state.items() if not name.startswith(excluded)}


@torch.no_grad()
def load_trained_state(model: DenseModel, values: Mapping[str, Tensor]) -> None:
    """Copy the tensors that ``trained_state`` returned into a model.

    Args:
        model: model to change in place.
        values: tensors by name.

    Raises:
        ValueError: if the model has no tensor with one of the names and shapes.
    """
    state = model.state_dict()
    for name, value in values.items():
        if name not in state or not is_dense(value) or value.shape != state[name].shape:
            raise ValueError(f"{name} is not a tensor of this model")
        state[name].copy_(value)


@dataclass
class AdaptState:
    """Results of the finished trainings of an adaptation, and the state of the current training.

    Attributes:
        path: path of the file; None writes no file.
        key: hash of the images, labels and options, which determine the result.
        plan: steps of each training, by name of the method.
        runs: results of finished trainings by name: ``trained`` (see ``trained_state``) and, if
            images were held out, ``sums`` (metric sums of every variant over these images) and
            ``per_image`` (metric of every image and variant).
        current: the current training: its name ``run``, its finished steps ``step``, and the states
            ``trained``, ``optimiser`` and ``rng``; empty between trainings.
    """

    path: Path | None
    key: str
    plan: dict[str, int] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    current: dict[str, Any] = field(default_factory=dict)
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path | None, decisive: Mapping[str, Any], resume: bool) -> "AdaptState":
        """Return a new state, or with ``resume`` the stored one.

        Args:
            path: path of the file; None writes no file.
            decisive: plain data about images, labels and options, which determine the result.
            resume: whether to read the file.

        Raises:
            InputError: if the file is missing, damaged, or belongs to other images or options.
        """
        text = json.dumps(decisive, sort_keys=True, default=str)
        state = cls(path, hashlib.sha256(text.encode()).hexdigest())
        if not resume:
            return state
        if path is None or not path.is_file():
            raise InputError(f"{path}: nothing to resume: leave --resume out")
        try:
            stored = load(path, check=True)[KEY]
            if not isinstance(stored, dict):
                raise InputError("no state")
        except InputError:
            raise InputError(f"{path}: damaged: {AGAIN}") from None
        if stored.get("key") != state.key:
            raise InputError(
                f"{path}: belongs to another model, or to other images, labels or options: give "
                f"those again, or {AGAIN}"
            )
        with state.resuming():
            state.plan = {str(name): int(steps) for name, steps in stored["plan"].items()}
            for run in stored["runs"].values():
                _ = run["trained"].items()
            _ = stored["current"].get("run")
            state.runs, state.current = stored["runs"], stored["current"]
        return state

    def resuming(self) -> AbstractContextManager[None]:
        """Return a context in which errors of damaged contents become one-line ``InputError``."""
        return reading(self.path or "", f"damaged ({{reason}}): {AGAIN}")

    def restore(self, model: DenseModel, optimiser: Any) -> int:
        """Load the current training into a model and its optimiser; return its finished steps.

        Raises:
            InputError: if the file is damaged.
        """
        with self.resuming():
            load_trained_state(model, self.current["trained"])
            try:
                # a copy, because a step changes these tensors in place
                optimiser.load_state_dict(copy.deepcopy(self.current["optimiser"]))
                restore_rng(self.current["rng"])
            except RuntimeError as error:  # for a tensor of another shape or dtype
                raise ValueError(reason_of(error)) from None
            return int(self.current["step"])

    def note(self, run: str, step: int, model: DenseModel, optimiser: Any) -> None:
        """Save the current training as ``stop`` does, unless that was less than 20 seconds ago."""
        if self.path is None or time.monotonic() - self._saved < SAVE_SECONDS:
            return
        self.stop(run, step, model, optimiser)

    def stop(self, run: str, step: int, model: DenseModel, optimiser: Any) -> None:
        """Save the current training in the file, with copies of all tensors.

        Args:
            run: name of the training.
            step: finished steps.
            model: model that is trained.
            optimiser: optimiser of the training.
        """
        self.current = {"run": run, "step": step, "trained": copy.deepcopy(trained_state(model))}
        self.current["optimiser"] = copy.deepcopy(optimiser.state_dict())
        self.current["rng"] = rng_state()
        self.save()

    def finish(self, run: str, result: Mapping[str, Any]) -> None:
        """Save the result of the finished training ``run``, as described for ``runs``."""
        self.runs[run], self.current = dict(result), {}
        self.save()

    def save(self) -> None:
        """Write the file completely, or keep the old one; a full disk does not end the training."""
        if self.path is None:
            return
        content = {"key": self.key, "plan": self.plan, "runs": self.runs, "current": self.current}
        try:
            AtomicCheckpoints().save_checkpoint({KEY: content}, self.path)
        except OSError as error:
            # the error ends with "the previous one is intact"
            log.warning("%s: --resume would continue from that one", error)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
