"""What the few-shot benchmark asks of a participant.

Every entrant learns from the same support and then answers for an image with a map in the unit of
the task (``d h w``), or for classes with their probabilities (``n h w``).
"""

import abc
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.clip import tower_folder
from diffsight.datasets.labelled_folder import Support
from diffsight.datasets.pairs import content_hash
from diffsight.datasets.source import Labelled, SourceTask
from diffsight.errors import InputError
from diffsight.hub.task_file import Base
from diffsight.tasks.dense import AbstractDense
from diffsight.training.loop import Where

Answer = Callable[[Labelled], Float[Tensor, "d h w"]]


@dataclass(frozen=True)
class Lesson:
    """What an entrant learns from.

    Attributes:
        spec: the task.
        support: labelled images.
        task: what their labels mean.
        base: the frozen model.
        short_side: at which methods work, in pixels.
        clip: CLIP vision model; None is the base's own.
        minutes: what learning may take.
        steps: instead of ``minutes``, exactly.
        seed: of everything random.
        where: to run.
    """

    spec: SourceTask
    support: Support
    task: AbstractDense
    base: Base
    short_side: int
    clip: str | None
    minutes: float
    steps: int | None
    seed: int
    where: Where


@dataclass
class Learned:
    """An entrant that has learned.

    Attributes:
        answer: its map for an image.
        facts: steps, parameters and the like, for the record.
    """

    answer: Answer
    facts: dict[str, Any] = field(default_factory=dict)


class AbstractEntrant(abc.ABC):
    """One row of the table."""

    @abc.abstractmethod
    def learn(self, lesson: Lesson) -> Learned:
        """Learn from a support."""

    def content(self, spec: SourceTask, base: Base, clip: str | None) -> str:
        """A hash of what it reads beside support and base: the same path may get other files.

        Raises:
            InputError: if there is not what it needs for a task.
        """
        return ""


def needed_tower(what: str, base: Base, clip: str | Path | None) -> Path:
    """The folder of a vision tower: ``clip``, or the base's own.

    Raises:
        InputError: if there is none.
    """
    folder = tower_folder(clip or base.folder)
    if clip is None and folder == base.folder:
        raise InputError(
            f"{base.source} has no CLIP vision model, which {what} needs: give --clip DIR, or "
            "leave it out"
        )
    return folder


def files_hash(folder: str | Path, pattern: str = "*") -> str:
    """A hash of the files of a folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).glob(pattern) if path.is_file()):
        status = path.stat()
        digest.update(
            f"{path.name} {_hash_of(path, status.st_mtime_ns, status.st_size)}\n".encode()
        )
    return digest.hexdigest()


@functools.cache
def _hash_of(path: Path, *_: int) -> str:
    return content_hash(path)
