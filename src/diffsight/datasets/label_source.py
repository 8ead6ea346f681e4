"""Labels of many images, however they are stored: one interface for all forms."""

import abc
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar, Self

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import Label, LabelFormat, read_label
from diffsight.datasets.pairs import content_hash


class AbstractLabelSource(abc.ABC):
    """Labels by the names of their images.

    Attributes:
        path: folder or file that holds them.
        classes: ids and names of the classes, where the labels have them.
        notes: what a user should know, a line each.
        are_points: whether all pixels have no label, but for a few.
    """

    path: Path
    classes: ClassList | None = None
    notes: tuple[str, ...] = ()
    are_points: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def names(self) -> Collection[str]:
        """Names in the form of ``files_by_name``."""

    @abc.abstractmethod
    def file(self, name: str) -> Path:
        """Return the file of a label, for messages."""

    @abc.abstractmethod
    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return a label.

        Args:
            name: of the label.
            form: how it is read.
            hw: height and width of the upright image, for labels that do not store them.

        Raises:
            InputError: if it cannot be used.
        """

    @abc.abstractmethod
    def digest(self, name: str) -> str:
        """Return a hash of a label's content, whatever the names are."""

    def describe(self, name: str) -> str:
        """Return where a label is, for messages."""
        return str(self.file(name))

    def numbered_by(self, classes: ClassList) -> Self:
        """Return the labels with the ids of a list of classes, where their classes have names."""
        return self


class LabelFiles(AbstractLabelSource):
    """A file of numbers or colours for every image.

    Args:
        path: folder.
        files: by name.
    """

    def __init__(self, path: Path, files: Mapping[str, Path]) -> None:
        self.path = path
        self._files = dict(files)

    @property
    def names(self) -> Collection[str]:
        """Names in the form of ``files_by_name``."""
        return self._files.keys()

    def file(self, name: str) -> Path:
        """Return the file of a label."""
        return self._files[name]

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return a label, as ``read_label`` does."""
        return read_label(self._files[name], form)

    def digest(self, name: str) -> str:
        """Return the hash of the file."""
        return content_hash(self._files[name])
