"""A project: a folder of photographs and its workspace, changed by several browser tabs."""

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffsight.errors import InputError
from diffsight.formats.text import reading
from diffsight.studio.accepted import read_accepted, write_accepted
from diffsight.studio.images import Photograph, list_photographs
from diffsight.studio.log import RecordLog
from diffsight.studio.state import MAX_CLASSES, Kind, LabelClass, Score, State
from diffsight.studio.strokes import LabelMap, Stroke, draw_strokes, parse_name, parse_stroke

MAX_NAME = 100  # characters
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
Publish = Callable[[str, Mapping[str, Any]], None]
log = logging.getLogger(__name__)


class MissingError(InputError):
    """A request names something that does not exist."""


class Project:
    """A folder of photographs with the labels that were painted on them.

    Every change is on disk before the method that makes it returns. Methods may be called from any
    thread.

    Args:
        folder: folder of the photographs.
        work: workspace, which this process has claimed.
        publish: called with the name of an event and its data after every change.

    Attributes:
        images: photographs that are in the folder, by id.
        changed_at: time of the last change of labels, by ``time.monotonic``.
        problem: why the folder could not be read the last time; empty if it could.

    Raises:
        InputError: if the folder cannot be used (see ``list_photographs``), or the log is damaged.
    """

    def __init__(
        self, folder: Path, work: Path, publish: Publish = lambda event, data: None
    ) -> None:
        self.folder, self.work = folder, work
        self._publish = publish
        self.changed_at = time.monotonic()
        self.problem = ""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.images: Mapping[int, Photograph] = {}
        names = list_photographs(folder, work)
        self._log = RecordLog(work)
        try:
            self._state = self._restore()
        except InputError:
            self._log.close()
            raise
        self._add_images(names)
        if not self._state.id:
            self._append({"do": "id", "id": uuid.uuid4().hex})
        self._warn_about_missing_images()

    @property
    def version(self) -> int:
        """Number of the last record; it grows with every change."""
        return self._log.number

    @property
    def id(self) -> str:
        """Random name of the workspace, by which a page knows whose strokes it keeps."""
        return self._state.id

    @property
    def kind(self) -> Kind:
        """Kind of the labels."""
        return self._state.kind

    @property
    def unit(self) -> str:
        """Unit of a scalar."""
        return self._state.unit

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes in the order of their ids."""
        with self._lock:
            return tuple(self._state.classes)

    @property
    def scores(self) -> tuple[Score, ...]:
        """History of the score on held-out images."""
        with self._lock:
            return tuple(self._state.scores)

    def read_folder(self) -> None:
        """Add the images that were put into the folder since it was read.

        Images that were deleted stay until the next start. If the folder cannot be used, no image
        is added, and ``problem`` says why.
        """
        try:
            names = list_photographs(self.folder, self.work)
        except InputError as error:
            self.problem = str(error)
            return
        self.problem = ""
        if self._add_images(names):
            self._publish("project", {})

    def _add_images(self, names: Sequence[str]) -> bool:
        """Add images by name; return whether there were new ones."""
        with self._lock:
            if unknown := sorted(set(names) - set(self._state.names)):
                self._append({"do": "images", "names": unknown})
            ids = {name: number for number, name in enumerate(self._state.names)}
            added = {ids[name]: name for name in names if ids[name] not in self.images}
            rows = {i: Photograph(i, name, self.folder / name) for i, name in added.items()}
            self.images = {**self.images, **rows}  # other threads iterate over the old one
            return bool(rows)

    def photograph(self, number: int) -> Photograph:
        """Return an image by its id.

        Raises:
            MissingError: if there is no such image.
        """
        if number not in self.images:
            raise MissingError(f"no image {number}: reload the page")
        return self.images[number]

    def label_versions(self) -> dict[int, int]:
        """Return the version of the labels of every image that has labels."""
        with self._lock:
            rows = ((i, self._state.images.get(i)) for i in self.images)
            return {i: one.version for i, one in rows if one is not None and one.has_labels}

    def describe_images(self) -> list[dict[str, Any]]:
        """Return id, name, number of strokes and acceptance of every image, as plain data."""
        with self._lock:
            rows = []
            for number, photograph in sorted(self.images.items()):
                one = self._state.images.get(number)
                count, is_accepted = (one.count, one.accepted is not None) if one else (0, False)
                row = {"id": number, "name": photograph.name}
                rows.append({**row, "strokes": count, "accepted": is_accepted})
            return rows

    def value_range(self) -> tuple[float, float] | None:
        """Return the smallest and largest painted value of a scalar; None without any."""
        with self._lock:
            return self._state.value_range()

    def strokes(self, number: int) -> tuple[list[Stroke], int]:
        """Return the strokes of an image, and the version of its labels."""
        self.photograph(number)
        with self._lock:
            one = self._state.image(number)
            return list(one.strokes), one.version

    def set_kind(self, kind: Any, unit: Any) -> None:
        """Choose the kind of the labels.

        Raises:
            InputError: if there are labels already, or the kind or the unit cannot be used.
        """
        if kind not in ("segmentation", "scalar"):
            raise InputError("the kind must be 'segmentation' or 'scalar'")
        unit = "" if unit is None or kind == "segmentation" else unit
        if unit != "" and (not _is_line(unit) or "/" in unit):
            raise InputError("the unit must be a short text on one line, without /")
        with self._lock:
            if (kind, unit) != (self.kind, self.unit):
                if self._state.has_labels:
                    raise InputError("the kind cannot change: there are labels already")
                self._append({"do": "kind", "kind": kind, "unit": unit})
        self._publish("project", {})

    def add_class(self, name: Any, colour: Any = None) -> LabelClass:
        """Add a class, and return it.

        Raises:
            InputError: if the name or the colour cannot be used, or there are too many classes.
        """
        with self._lock:
            number = len(self._state.classes)
            if number >= MAX_CLASSES:
                raise InputError(f"{MAX_CLASSES} classes are the most that a label can have")
            if colour is None:
                colour = self._state.next_colour()
            return self._set_class(number, name, colour)

    def change_class(self, number: int, name: Any = None, colour: Any = None) -> LabelClass:
        """Change the name or the colour of a class, and return the class.

        Raises:
            MissingError: if there is no such class.
            InputError: if the name or the colour cannot be used.
        """
        with self._lock:
            if not 0 <= number < len(self._state.classes):
                raise MissingError(f"no class {number}: reload the page")
            old = self._state.classes[number]
            name, colour = (
                new or before for new, before in ((name, old.name), (colour, old.colour))
            )
            return self._set_class(number, name, colour)

    def _set_class(self, number: int, name: Any, colour: Any) -> LabelClass:
        name = name.strip() if isinstance(name, str) else name
        if not _is_line(name) or name.startswith("#"):
            raise InputError(
                f"the name of a class must be a text of 1 to {MAX_NAME} characters on one line, "
                "not beginning with #"
            )
        if not isinstance(colour, str) or not _COLOUR.fullmatch(colour):
            raise InputError("the colour of a class must have the form #rrggbb")
        if any(one.name == name and one.id != number for one in self._state.classes):
            raise InputError(f"there is a class {name!r} already: give another name")
        record = {"do": "class", "id": number, "name": name, "colour": colour.lower()}
        self._append(record)
        self._publish("project", {})
        return self._state.classes[number]

    def add_stroke(self, number: int, data: Any) -> int:
        """Store a stroke that a page has sent, and return the number of its record.

        A stroke whose id is stored already changes nothing.

        Raises:
            MissingError: if there is no such image.
            InputError: if the stroke cannot be used.
        """
        size = self.photograph(number).size
        with self._lock:
            ids = [one.id for one in self._state.classes] if self.kind == "segmentation" else None
            stroke = parse_stroke(data, ids)
            for old in self._state.image(number).strokes:
                if old.id == stroke.id:
                    return old.number
            if not stroke.touches(*size):
                raise InputError(
                    f"the stroke lies outside of the image, which has {size[0]} x {size[1]} pixels"
                )
            plain = stroke.to_json()
            del plain["number"], plain["undone"]
            return self._append({"do": "stroke", "image": number, "stroke": plain})

    def undo(self, number: int, tab: Any) -> tuple[int, str | None]:
        """Undo the last stroke of a tab on an image.

        Returns:
            The number of the record, and the id of the stroke; None if there is none.
        """
        return self._turn("undo", number, tab)

    def redo(self, number: int, tab: Any) -> tuple[int, str | None]:
        """Reverse the last ``undo``; returns the same."""
        return self._turn("redo", number, tab)

    def _turn(self, do: str, number: int, tab: Any) -> tuple[int, str | None]:
        self.photograph(number)
        tab = parse_name(tab, "the tab")
        with self._lock:
            image = self._state.image(number)
            stroke = image.stroke_to_undo(tab) if do == "undo" else image.stroke_to_redo(tab)
            if stroke is None:
                return self.version, None
            return self._append({"do": do, "image": number, "stroke": stroke.id}), stroke.id

    def accept(self, number: int, labels: np.ndarray) -> int:
        """Store a prediction as the label of all pixels that are not painted.

        Args:
            number: id of the image.
            labels: class ids ``h w`` of uint8, or numbers of float32, of the whole image at some
                size.
        """
        self.photograph(number)
        with self._lock:
            folder, old = self.work / "accepted", self._state.image(number).accepted
            name = write_accepted(folder, f"{number:05d}-{self.version + 1}", labels)
            record = self._append({"do": "accept", "image": number, "file": name})
            if old:
                (folder / old).unlink(missing_ok=True)
            return record

    def take_back(self, number: int) -> int:
        """Remove the accepted labels of an image; painted labels stay."""
        self.photograph(number)
        with self._lock:
            old = self._state.image(number).accepted
            if old is None:
                return self.version
            record = self._append({"do": "unaccept", "image": number})
            (self.work / "accepted" / old).unlink(missing_ok=True)
            return record

    def add_score(self, score: Score) -> None:
        """Store a score on held-out images."""
        self._append({"do": "score", "score": vars(score)})
        self._publish("score", vars(score))

    def labels(self, number: int, hw: tuple[int, int]) -> LabelMap:
        """Return the labels of an image at some size.

        Later strokes are over earlier ones. Accepted labels fill the pixels that had no label when
        they were accepted.

        Args:
            number: id of the image.
            hw: height and width of the map in pixels.
        """
        size = self.photograph(number).size
        with self._lock:
            one = self._state.image(number)
            strokes, accepted, limit = list(one.strokes), one.accepted, one.accepted_number
            base = read_accepted(self.work / "accepted" / accepted, hw) if accepted else None
        if base is None:
            return draw_strokes(strokes, size, hw)
        before = draw_strokes([s for s in strokes if s.number < limit], size, hw)
        before.is_erased[:] = False  # a prediction fills what was erased before it was accepted
        after = draw_strokes([s for s in strokes if s.number > limit], size, hw)
        return after.over(before.over(base))

    def wait(self, version: int, seconds: float) -> None:
        """Wait for a record after ``version``, for ``wake``, or until the time is over."""
        with self._changed:
            if self.version == version:
                self._changed.wait(seconds)

    def wake(self) -> None:
        """End ``wait`` in all threads."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Close the log."""
        with self._lock:
            self._log.close()

    def _append(self, record: Mapping[str, Any]) -> int:
        """Write a record to the log, and change the state; return the number of the record."""
        with self._changed:
            number = self._log.append(record)
            self._state.apply(number, record)
            if self._log.is_long:
                self._compact()
            if "image" in record:
                self.changed_at = time.monotonic()
            self._changed.notify_all()
        if "image" in record:
            self._publish("strokes", {"image": record["image"], "version": number})
        return number

    def _compact(self) -> None:
        """Start a new log; without space for it the old one goes on."""
        try:
            self._log.compact(self._state.to_json())
        except (InputError, OSError) as error:
            log.warning("%s: the log grows on: %s", self.work, error)

    def _restore(self) -> State:
        """Return the state that the snapshot and the records lead to.

        Raises:
            InputError: if a record cannot be understood.
        """
        with reading(self.work, "its log cannot be used ({reason}): restore it from a backup"):
            stored, records = self._log.snapshot, self._log.take_records()
            state = State() if stored is None else State.from_json(stored)
            start = self._log.number - len(records) + 1
            for number, record in enumerate(records, start=start):
                state.apply(number, record)
            return state

    def _warn_about_missing_images(self) -> None:
        if missing := self._state.missing_names(self.images):
            log.warning(
                "%s: %d labelled image(s) are missing, such as %s: put them back to use their "
                "labels",
                *(self.folder, len(missing), missing[0]),
            )


def _is_line(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME and text.isprintable()
