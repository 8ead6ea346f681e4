"""Base class for the labels of many images. Every storage format has a subclass."""

import abc
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import Label, LabelFormat, read_label
from diffsight.datasets.mask_values import count_ids
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError


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
    is_sparse: bool = False

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

    def renumber(self, classes: ClassList) -> "AbstractLabelSource":
        """Return the labels with the class ids that ``classes`` gives to their class names.

        Labels that do not name their classes are returned unchanged, and so are all labels if
        ``classes`` is empty.
        """
        if self.classes is None or not len(classes):
            return self
        return RenumberedLabels(self, self.classes, classes)


class RenumberedLabels(AbstractLabelSource):
    """Labels of another source, with the class ids of a list that has the same class names.

    Args:
        source: labels that name their classes.
        own: ids and names of the classes in ``source``.
        classes: ids and names of the classes from now on.
    """

    def __init__(self, source: AbstractLabelSource, own: ClassList, classes: ClassList) -> None:
        self.path = source.path
        self.classes = ClassList(dict(classes.names), "id")
        self.notes = source.notes
        self.is_sparse = source.is_sparse
        self._source, self._own = source, own
        self._ids = {name: number for number, name in classes.names.items()}

    @property
    def names(self) -> Collection[str]:
        """Names of the labels, as ``name_of`` returns them."""
        return self._source.names

    def file(self, name: str) -> Path:
        """Return the path of the file that contains a label, for messages."""
        return self._source.file(name)

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the label map of an image; ``form.invalid`` is an id of the list.

        Raises:
            InputError: if the label cannot be used, or has a class that is not in the list.
        """
        label = self._source.read(name, replace(form, invalid=None), hw)
        present = {number: self._own.names[number] for number in count_ids([label])}
        if missing := sorted(set(present.values()) - self._ids.keys()):
            raise InputError(
                f"{self.file(name)}: class {missing[0]!r} is not in the list of classes "
                f"({', '.join(self._ids)}): correct the name, or add it to the list"
            )
        label = label.renumber({number: self._ids[one] for number, one in present.items()})
        return label if form.invalid is None else label.without(form.invalid)

    def digest(self, name: str) -> str:
        """Return the text that identifies the content of a label in its source."""
        return self._source.digest(name)

    def describe(self, name: str) -> str:
        """Return where a label is stored, as text for messages."""
        return self._source.describe(name)


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
