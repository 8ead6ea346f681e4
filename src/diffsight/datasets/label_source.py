"""Base class for the labels of many images. Every storage format has a subclass."""

import abc
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar, Self

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import Label, LabelFormat, read_label
from diffsight.datasets.pairs import content_hash


class AbstractLabelSource(abc.ABC):
    """Labels of many images, each of which is read by its name.

    Attributes:
        path: folder or file that contains the labels.
        classes: ids and names of the classes if the labels name them, else None.
        notes: notes for the user, one line each.
        is_sparse: whether only single pixels of an image have a label.
    """

    path: Path
    classes: ClassList | None = None
    notes: tuple[str, ...] = ()
    is_sparse: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def names(self) -> Collection[str]:
        """Names of the labels, as ``name_of`` returns them."""

    @abc.abstractmethod
    def file(self, name: str) -> Path:
        """Return the path of the file that contains a label, for messages."""

    @abc.abstractmethod
    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the label map of an image.

        Args:
            name: name of the label.
            form: format with which it is read.
            hw: height and width of the upright image in pixels, for labels that do not store them.

        Raises:
            InputError: if the label cannot be used.
        """

    @abc.abstractmethod
    def digest(self, name: str) -> str:
        """Return a text that identifies the content of a label, whatever the names of its files."""

    def describe(self, name: str) -> str:
        """Return where a label is stored, as text for messages."""
        return str(self.file(name))

    def renumber(self, classes: ClassList) -> Self:
        """Return the labels with the class ids that ``classes`` gives to their class names.

        The base class returns the labels unchanged.
        """
        return self


class LabelFiles(AbstractLabelSource):
    """Labels in one file of numbers or colours per image.

    Args:
        path: folder of the files.
        files: paths of the files by name.
    """

    def __init__(self, path: Path, files: Mapping[str, Path]) -> None:
        self.path = path
        self._files = dict(files)

    @property
    def names(self) -> Collection[str]:
        """Names of the labels, as ``name_of`` returns them."""
        return self._files.keys()

    def file(self, name: str) -> Path:
        """Return the path of a label's file."""
        return self._files[name]

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the label map of an image, see ``read_label``; ``hw`` is not used.

        Raises:
            InputError: if the file cannot be read, or does not fit the format.
        """
        return read_label(self._files[name], form)

    def digest(self, name: str) -> str:
        """Return the hash of a label's file."""
        return content_hash(self._files[name])
