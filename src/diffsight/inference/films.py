"""Predict the frames of a film, and write their files, an overlay film and one JSON file.

Every 25 frames are a *part*. After a part is complete on disk, an interrupted run continues after
it, and the results are those of a run that was not interrupted.
"""

import contextlib
import itertools
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffsight.atomic import replacing, report_unwritable
from diffsight.errors import InputError
from diffsight.formats.text import read_object
from diffsight.inference.film_files import FilmFiles, write_record
from diffsight.inference.predictor import Predictor
from diffsight.inference.smoothing import SmoothedPredictor
from diffsight.inference.video import (
    DEFAULT_RATE,
    DamagedFilmError,
    Film,
    FilmWriter,
    Frame,
    join_films,
)
from diffsight.inference.write import draw_prediction, save_array
from diffsight.locks import claim_name, made_folder
from diffsight.ops.memory import report_out_of_memory
from diffsight.tasks import Prediction
from diffsight.types import People

PART_FRAMES = 25


@dataclass(frozen=True)
class FilmRequest:
    """How a film is predicted.

    Attributes:
        smoothing: weight of earlier frames where the picture does not change; 0: each frame is
            predicted as an image.
        overlay_only: whether no files of single frames are written.
        prompt: prompt of all frames.
        detector: detector that ``find_people`` runs; None for the default.
        find_people: function that takes a frame and the path of the film, and returns the people in
            it; for models that predict joints.
        notes: further entries of the JSON file.
    """

    smoothing: float = 0.0
    overlay_only: bool = False
    prompt: str | None = None
    detector: str | None = None
    find_people: Callable[[Tensor, Path], People] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def predict_film(
    predictor: Predictor,
    film: Film,
    base: Path,
    request: FilmRequest,
    advance: Callable[[int], None] = lambda frames: None,
) -> dict[str, Any]:
    """Predict the frames of a film and write the results; an interrupted run continues.

    If the film is damaged, the frames before the damage are used.

    Args:
        predictor: model and plan.
        film: film to predict.
        base: output folder and name of the results.
        request: how the film is predicted.
        advance: called with the number of finished frames after every frame.

    Returns:
        The contents of the JSON file without ``frames``, which may be too many for the memory (see
        ``film_files.read_entries``). ``damage`` is a message if the film is damaged.

    Raises:
        InputError: if the film or the prediction cannot be used, a result cannot be written, or
            another run writes these results.
    """
    files = FilmFiles(base)
    with report_unwritable(base):
        files.require_free()
    with made_folder(base.parent), claim_name(files.record):
        return _predict_claimed(predictor, film, base, request, advance)


def _predict_claimed(
    predictor: Predictor,
    film: Film,
    base: Path,
    request: FilmRequest,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Do what ``predict_film`` does, with its arguments; no other run writes the same results."""
    used: Predictor = predictor
    results = FilmResults(film, base, request, _settings(predictor, film, request))
    if request.smoothing:
        used = smoothed = SmoothedPredictor(predictor, request.smoothing)
        smoothed.smoother.reset(results.state)
        smoothed.continues = True
        results.get_state = lambda: smoothed.smoother.state
    begin, waiting = results.finished, deque[Frame]()
    advance(begin)
    damage: str | None = None

    def images() -> Iterator[Tensor]:
        nonlocal damage
        try:
            for frame in film:
                if frame.number > begin:
                    predictor.plan.working_hw(*frame.image.shape[-2:])
                    waiting.append(frame)
                    yield frame.image
        except DamagedFilmError as error:
            damage = str(error)

    people, find = None, request.find_people
    if find is not None:  # runs after the frame of the same index was read
        people = (find(waiting[-1].image, film.path) for _ in itertools.count())
    with results:
        for prediction in used(images(), itertools.repeat(request.prompt), people):
            results.add(waiting.popleft(), prediction)
            advance(1)
    return results.finish(damage)


def _settings(predictor: Predictor, film: Film, request: FilmRequest) -> dict[str, Any]:
    """Return everything that the results depend on; a run with other settings starts again."""
    status = film.path.stat()
    threshold = predictor.threshold
    settings = {
        "film": [str(film.path), status.st_size, status.st_mtime_ns],
        "plan": predictor.plan.describe(),
        "device": str(predictor.device),
        "dtype": str(predictor.dtype),
        "confidence": threshold and threshold.confidence,
        "options": [request.smoothing, request.overlay_only, request.prompt, request.detector],
        "notes": request.notes,
    }
    return json.loads(json.dumps(settings))


class FilmResults:
    """The result files of a film, which are written frame by frame.

    Args:
        film: film that is predicted.
        base: output folder and name of the results.
        request: how the film is predicted.
        settings: everything that the results depend on, as plain data.

    Attributes:
        finished: number of frames that earlier runs finished.
        state: state of the smoothing after the last frame that was added.
        get_state: function that returns the present state of the smoothing.

    Raises:
        InputError: if the folder cannot be written.
    """

    def __init__(
        self, film: Film, base: Path, request: FilmRequest, settings: Mapping[str, Any]
    ) -> None:
        self.film = film
        self.files = FilmFiles(base)
        self.request = request
        self.finished = 0
        self.state: dict[str, Tensor] = {}
        self.get_state: Callable[[], Mapping[str, Tensor]] = dict
        self._settings = settings
        self._open: list[dict[str, Any]] = []  # entries of the frames in the part that is written
        self._first: dict[str, Any] = {}  # timestamp, height and width of the first frame
        self._parts = 0
        self._writer: FilmWriter | None = None
        self._appended = 0  # frames in the part that is written
        with report_unwritable(base):
            if not self._continue():
                self.files.remove()
            self.files.unfinished.mkdir(parents=True, exist_ok=True)
            if not request.overlay_only:
                self.files.frames.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        """Return the results."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Complete the last part, after an error too: the next run then continues after it."""
        if kind is None:
            self._end_part()
            return
        with contextlib.suppress(InputError, OSError):
            self._end_part()
        if not self._parts:
            self.files.remove()

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Write the files of a frame, and append it to the overlay."""
        if not self._first:
            height, width = frame.image.shape[-2:]
            self._first = {"timestamp": frame.timestamp, "hw": [height, width]}
        with report_out_of_memory(f"{self.film.path}: not enough memory for its output files"):
            picture = draw_prediction(prediction, frame.image)
            record: dict[str, Any] = {"frame": frame.number, "time_s": round(frame.time_s, 6)}
            if not self.request.overlay_only:
                for name, array in {**prediction.arrays(), "colour": picture}.items():
                    path = self.files.frame(frame.number, f"{name}{array.suffix}")
                    save_array(array, path)
                    record[name] = path.name
            self._append(frame, picture.values)
        self._open.append(json.loads(json.dumps(record | prediction.metadata())))
        self.state = dict(self.get_state())
        if len(self._open) == PART_FRAMES:
            self._end_part()

    def finish(self, damage: str | None = None) -> dict[str, Any]:
        """Write the overlay film and the JSON file; return its contents without ``frames``.

        Args:
            damage: message about a damaged film.
        """
        files = self.files
        parts = [self._part(number) for number in range(1, self._parts + 1)]
        with replacing(files.overlay) as partial:
            join_films(parts, partial)
        common = _find_common(self._entries(), files.base.name)
        rate = self.film.frame_rate
        about: dict[str, Any] = {
            "film": str(self.film.path),
            "overlay": files.overlay.name,
            "frames_folder": None if self.request.overlay_only else files.frames.name,
            "frame_count": self.finished,
            "frame_rate": None if rate is None else round(float(rate), 6),
            "smoothing": self.request.smoothing,
            **({} if damage is None else {"damage": damage}),
            **common,
            **self.request.notes,
        }
        frames = ({k: v for k, v in one.items() if k not in common} for one in self._entries())
        with replacing(files.record) as partial:
            write_record(partial, about, frames)
        shutil.rmtree(files.unfinished, ignore_errors=True)
        return about

    def _entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of all finished frames, one after another from the disk."""
        if self.finished:
            with self._journal.open(encoding="utf-8") as journal:
                yield from map(json.loads, itertools.islice(journal, self.finished))

    def _append(self, frame: Frame, drawn: np.ndarray) -> None:
        """Append the picture of a frame to the overlay."""
        if self._writer is None:
            film, hw = self.film, self._first["hw"]
            rate = film.frame_rate or DEFAULT_RATE
            part = self._part(self._parts + 1)
            part.unlink(missing_ok=True)  # of a killed run
            self._writer = FilmWriter(
                part, (hw[0], hw[1]), Fraction(film.unit_s), rate, film.pixel_aspect
            )
        height = frame.image.shape[-2]  # the legend is below
        colours = torch.from_numpy(np.array(drawn[:height])).permute(2, 0, 1)
        mixed = (frame.image.short() + colours + 1) >> 1  # half transparent
        self._appended += 1
        self._writer.add(mixed.to(torch.uint8), frame.timestamp - self._first["timestamp"])

    def _end_part(self) -> None:
        """Complete a part on disk, so that a later run continues after it."""
        writer, appended = self._writer, self._appended
        self._writer, self._appended = None, 0
        if writer is None:
            return
        writer.__exit__(None)
        new, self._open = self._open, []
        if appended != len(new):  # interrupted between the overlay and the record of a frame
            return
        self._parts += 1
        state = self._state_path(self._parts)
        save_file({name: one.contiguous() for name, one in self.state.items()}, state)
        progress = {
            "settings": self._settings,
            "parts": self._parts,
            "first": self._first,
            "frames": self.finished + len(new),
        }
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(record) + "\n" for record in new)
        with replacing(self.files.unfinished / "progress.json") as partial:
            partial.write_text(json.dumps(progress), encoding="utf-8")
        self.finished = progress["frames"]
        self._state_path(self._parts - 1).unlink(missing_ok=True)

    def _continue(self) -> bool:
        """Return whether there is an unfinished run with these settings, and read its progress."""
        folder = self.files.unfinished
        try:
            progress = read_object(folder / "progress.json")
            if progress["settings"] != self._settings:
                return False
            count = self._keep_entries(progress["frames"])
            parts = [self._part(number).stat() for number in range(1, progress["parts"] + 1)]
            state = load_file(self._state_path(progress["parts"]))
        except (OSError, ValueError, KeyError):
            return False
        if count != progress["frames"] or not parts:
            return False
        self.state, self._first = state, progress["first"]
        self._parts, self.finished = progress["parts"], progress["frames"]
        return True

    def _keep_entries(self, most: int) -> int:
        """Check the first entries of the journal, delete the others, and return their number.

        Args:
            most: number of entries to keep; a killed run may have written more.

        Raises:
            ValueError: if an entry is damaged.
        """
        count = size = 0
        with self._journal.open("r+b") as journal:
            for line in itertools.islice(journal, most):
                json.loads(line)
                count, size = count + 1, size + len(line)
            journal.truncate(size)
        return count

    @property
    def _journal(self) -> Path:
        """The file with one line for every finished frame."""
        return self.files.unfinished / "frames.jsonl"

    def _part(self, number: int) -> Path:
        return self.files.unfinished / f"part_{number:06d}.nut"

    def _state_path(self, part: int) -> Path:
        return self.files.unfinished / f"state_{part:06d}.safetensors"


def _find_common(records: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the entries that all frames share.

    Args:
        records: entries of every frame.
        name: name of the results, with which the names of files begin.
    """
    common: dict[str, Any] | None = None
    for one in records:
        if common is None:
            common = {
                key: value
                for key, value in one.items()
                if key not in ("frame", "time_s")
                and not (isinstance(value, str) and value.startswith(f"{name}_"))
            }
        common = {k: v for k, v in common.items() if k in one and one[k] == v}
    return common or {}
