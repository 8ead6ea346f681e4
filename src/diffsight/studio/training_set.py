"""The labelled images of a project as training examples, kept up to date."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diffsight.errors import InputError
from diffsight.studio.features import FeatureStore
from diffsight.studio.live import class_task, distinct_labels, make_views, scalar_task
from diffsight.studio.project import Project
from diffsight.studio.state import LabelClass
from diffsight.studio.strokes import LabelMap
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import Views

MAX_VALUES = 2000  # of an image, to which the bins of a scalar are fitted
TaskKey = tuple[object, ...]


@dataclass
class _Labelled:
    """A labelled image, and its views for a task."""

    version: int
    content: str | None
    labels: LabelMap
    key: TaskKey = ()
    views: Views = ()


@dataclass
class TrainingSet:
    """The labelled images of a project.

    Attributes:
        project: the labels.
        store: features.
        skip: called with an image that cannot be used, and the reason.
        versions: version of the labels of every labelled image, at the last ``update``.
        task: task of the labels; None if there are fewer than two different labels.
        key: changes whenever the meaning of the model's classes changes.
    """

    project: Project
    store: FeatureStore
    skip: Callable[[int, InputError], None]
    versions: Mapping[int, int] = field(default_factory=dict)
    task: AbstractTask | None = None
    key: TaskKey = ()
    _images: dict[int, _Labelled] = field(default_factory=dict)

    def update(self) -> bool:
        """Read changed labels; return whether there were any."""
        versions, old = self.project.label_versions(), self._images
        self._images = {}
        for number, version in versions.items():
            one = old.get(number)
            content = self._content(number)
            if one is None or one.version != version or content not in (one.content, None):
                one = self._read(number, version, content)
            if one is not None and not one.labels.is_empty:
                self._images[number] = one
        self._make_task()
        is_changed = versions != self.versions
        self.versions = versions
        return is_changed

    @property
    def numbers(self) -> list[int]:
        """Ids of the labelled images, in ascending order."""
        return sorted(self._images)

    def views(self) -> dict[int, Views]:
        """Return the training examples by image id; needs a task.

        An image that cannot be read is skipped.
        """
        assert self.task is not None
        views = {}
        for number in self.numbers:
            one = self._images[number]
            if one.key != self.key or not one.views:
                try:
                    photograph = self.project.photograph(number)
                    features = self.store.get(photograph, mirror=True)
                except InputError as error:
                    self.skip(number, error)
                    continue
                one.views, one.key = make_views(self.task, features, one.labels), self.key
            views[number] = one.views
        return views

    def _content(self, number: int) -> str | None:
        """Return the hash of the file of an image; None if it cannot be read."""
        try:
            return self.project.photograph(number).content
        except InputError:
            return None

    def _read(self, number: int, version: int, content: str | None) -> _Labelled | None:
        try:
            hw = self.store.working_hw(self.project.photograph(number).size)
            return _Labelled(version, content, self.project.labels(number, hw))
        except InputError as error:
            self.skip(number, error)
            return None

    def _make_task(self) -> None:
        """Set the task and its key."""
        project = self.project
        labels = [one.labels for one in self._images.values()]
        classes: tuple[LabelClass, ...] = project.classes
        self.task, self.key = None, ()
        if len(distinct_labels(labels)) < 2:
            return
        if project.kind == "segmentation":
            self.task, self.key = class_task(classes), ("classes", classes)
            return
        values = []
        for one in labels:
            numbers = one.values[one.is_labelled]
            values += numbers[:: max(1, len(numbers) // MAX_VALUES)].tolist()
        if len(set(values)) < 2:  # a single pixel has another value
            values = distinct_labels(labels)
        self.task = scalar_task(values, project.unit)
        centres = [float(v) for spec in self.task.outputs if spec.codec for v in spec.codec.centres]
        self.key = ("scalar", project.unit, tuple(centres))
