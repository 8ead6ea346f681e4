"""What the background thread does: train the model, predict images, and measure the score."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.ops.memory import keep_freed_memory
from diffsight.studio.features import Features, FeatureStore
from diffsight.studio.live import STEPS, LiveModel, build_encoder
from diffsight.studio.project import Project, Publish
from diffsight.studio.shared import Predicted, Shared
from diffsight.studio.state import Score
from diffsight.studio.training_set import TrainingSet
from diffsight.studio.validation import cross_validate

BURST_S = 1.0
NEXT_IMAGES = 3  # that are predicted ahead
MIN_SCORED = 3  # labelled images from which on a score is measured
IDLE_S = 30.0
log = logging.getLogger(__name__)


class Trainer:
    """Trains a model on the labels of a project, and predicts images.

    It works in pieces of about a second. Before each piece it looks for what is most
    urgent: new labels, the image on the screen, the next images, the score, further features.

    Args:
        project: the labels.
        publish: called with the name of an event and its data.
        backbone: name of the frozen backbone, with its size.
        shared: what the page wants to see, and the results for it.
    """

    def __init__(self, project: Project, publish: Publish, backbone: str, shared: Shared) -> None:
        self._project, self._publish, self._shared = project, publish, shared
        self._status("loading the backbone", busy=True)
        self._source = BackboneSource(backbone)
        encoder, side = build_encoder(self._source), self._source.short_side_px
        self._store = FeatureStore(project.work / "features", encoder, side, backbone)
        self._labels = TrainingSet(project, self._store, self._skip)
        self._model_lock = threading.Lock()  # held while the model changes
        self._opened_seen = 0
        self._predicted_at = 0.0
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._reading: Future[Features | None] | None = None
        self._failed: set[int] = set()
        self._prepared: set[int] = set()
        self._live: LiveModel | None = None
        self._key: tuple[object, ...] = ()
        self._statistics_of: list[int] = []
        self._seen = -1
        self._changed_at = 0.0
        self._model_version = 0
        self._range: tuple[float, float] | None = None
        self._validation: Generator[None, None, Score | None] | None = None
        self._scored: Mapping[int, int] | None = None  # versions of the labels

    def copy_model(self) -> LiveModel | None:
        """Return a copy of the model; None if it was not trained yet."""
        with self._model_lock:
            is_trained = self._live is not None and self._live.is_trained
            return self._live.copy() if self._live is not None and is_trained else None

    def run(self) -> None:
        """Work until the server closes."""
        keep_freed_memory()
        while not self._shared.is_closed:
            seen, opened = self._project.version, self._shared.opened
            try:
                is_busy = self._work()
            except Exception as error:
                if self._shared.is_closed:  # and so is the log
                    break
                fail(self._publish, error)
                is_busy = False
            if not is_busy:
                self._rest(seen, opened)
        self._reader.shutdown(cancel_futures=True)

    def _work(self) -> bool:
        """Do one piece of work; return whether there may be more."""
        if self._opened_seen != self._shared.opened:
            self._opened_seen = self._shared.opened
            self._failed -= {self._shared.current}  # its file may be there again
        if self._seen != self._project.version:
            self._refresh()
        pieces: tuple[Callable[[], bool], ...] = (
            self._prepare_current,
            self._train,
            self._predict_current,
            self._predict_next,
            self._validate,
            self._encode_others,
        )
        if any(piece() for piece in pieces):
            return True
        self._status(self._advice(), busy=False)
        return False

    def _rest(self, seen: int, opened: int) -> None:
        """Wait for a change."""
        end = time.monotonic() + IDLE_S
        while not self._shared.is_closed and time.monotonic() < end:
            if self._project.version != seen or self._shared.opened != opened:
                return
            self._project.wait(seen, 0.2)

    def _refresh(self) -> None:
        """Read changed labels; build a new model if the classes or the bins have changed."""
        self._seen = self._project.version
        is_changed, labels = self._labels.update(), self._labels
        if is_changed:
            self._changed_at, self._validation = self._project.changed_at, None
            if (limits := self._project.value_range()) != self._range:
                self._range = limits
                self._publish("project", {})
        with self._model_lock:
            if labels.task is None:
                self._forget_model()
                return
            if labels.key != self._key or self._live is None:
                live = LiveModel(self._source, labels.task)
                if self._live is not None:
                    live.start_from(self._live, keeps_classes=labels.key[0] == "classes")
                else:
                    self._statistics_of = []
                self._live, self._key, is_changed = live, labels.key, True
                self._validation, self._scored = None, None
            if is_changed:
                self._live.done, self._live.seed = 0, self._seen

    def _forget_model(self) -> None:
        """Forget the model and its predictions, because there are too few labels."""
        if self._live is None:
            return
        self._live, self._key, self._validation, self._scored = None, (), None, None
        self._shared.predictions.clear()
        self._publish("project", {})

    def _prepare_current(self) -> bool:
        """Compute the features of the image on the screen before something is painted on it."""
        number = self._shared.current
        if number is None or number in self._failed or number in self._prepared:
            return False
        self._status("reading the image", busy=True)
        self._prepared.add(number)
        self._features(number, mirror=True)
        return True

    def _train(self) -> bool:
        """Train for a second, and predict the image on the screen."""
        live = self._live
        if live is None or live.done >= STEPS:
            return False
        self._status(f"training ({live.done} of {STEPS} steps)", busy=True)
        views = self._labels.views()
        if not views:
            return False
        with self._model_lock:
            if list(views) != self._statistics_of:
                live.fit_statistics(list(views.values()))
                self._statistics_of = list(views)
            live.burst(list(views.values()), BURST_S, self._is_interrupted)
            self._model_version += 1
        # somebody who paints without a pause sees a prediction every second
        if not self._is_interrupted() or time.monotonic() - self._predicted_at > BURST_S:
            self._predict_current()
        return True

    def _is_interrupted(self) -> bool:
        """Return whether something more urgent has come."""
        is_changed = self._project.version != self._seen or self._shared.opened != self._opened_seen
        return self._shared.is_closed or is_changed

    def _predict_current(self) -> bool:
        return self._shared.current is not None and self._predict(self._shared.current)

    def _predict_next(self) -> bool:
        """Predict one of the images after the one on the screen."""
        numbers = sorted(self._project.images)
        start = 0 if self._shared.current is None else numbers.index(self._shared.current) + 1
        return any(self._predict(number) for number in numbers[start : start + NEXT_IMAGES])

    def _predict(self, number: int) -> bool:
        """Predict an image, unless the present model has predicted it; return whether it did."""
        live, last = self._live, self._shared.predictions.get(number)
        if live is None or not live.is_trained or number in self._failed:
            return False
        if last is not None and last.version == self._model_version:
            return False
        features = self._features(number)
        if features is None:
            return False
        output = live.predict(features)
        predicted = Predicted(live.task, output, self._model_version)
        self._shared.predictions.put(number, predicted)
        self._predicted_at = time.monotonic()
        seconds = round(time.monotonic() - self._changed_at, 3)
        data = {"image": number, "version": self._model_version, "seconds": seconds}
        self._publish("prediction", data)
        return True

    def _validate(self) -> bool:
        """Continue the cross-validation of the present labels."""
        labels = self._labels
        if self._live is None or len(labels.numbers) < MIN_SCORED:
            return False
        if self._scored == labels.versions:
            return False
        self._status("measuring the score on held-out images", busy=True)
        if self._validation is None:
            views = labels.views()
            ids = [self._project.photograph(number).content for number in views]
            if labels.task is None or len(set(ids)) < MIN_SCORED:
                return False
            rows = list(views.values())
            self._validation = cross_validate(
                self._source, labels.task, rows, ids, self._is_interrupted
            )
        try:
            next(self._validation)
        except StopIteration as end:
            self._validation, self._scored = None, labels.versions
            if end.value is not None:
                self._project.add_score(end.value)
        return True

    def _encode_others(self) -> bool:
        """Compute the features of one more image of the folder.

        A large image takes seconds, so another thread reads it, and this one waits only as long as
        there is nothing more urgent.
        """
        if self._reading is None:
            vectors = self._shared.vectors
            others = self._project.images.keys() - vectors.keys() - self._failed
            if not others:
                return False
            done, total = len(vectors), len(self._project.images)
            self._status(f"reading the images ({done} of {total})", busy=True)
            self._reading = self._reader.submit(self._features, min(others))
        while not self._is_interrupted():
            if wait([self._reading], timeout=0.05).done:
                self._reading.result()
                self._reading = None
                break
        return True

    def _features(self, number: int, *, mirror: bool = False) -> Features | None:
        """Return the features of an image; None if it cannot be used."""
        try:
            features = self._store.get(self._project.photograph(number), mirror=mirror)
        except InputError as error:
            self._skip(number, error)
            return None
        self._shared.vectors[number] = features.vector
        return features

    def _advice(self) -> str:
        """Return what the user can do next, for the status line."""
        if self._live is not None:
            return "ready"
        if self._project.kind == "scalar":
            return "paint two different values to start the training"
        if len(self._project.classes) < 2:
            return "add two classes, and paint both, to start the training"
        return "paint two classes to start the training"

    def _status(self, text: str, *, busy: bool) -> None:
        self._publish("status", {"text": text, "busy": busy})

    def _skip(self, number: int, error: InputError) -> None:
        """Report an image that cannot be used, once."""
        if number not in self._failed:
            self._failed.add(number)
            self._publish("failure", {"text": str(error)})


def fail(publish: Publish, error: Exception) -> None:
    """Report an error of the thread."""
    if not isinstance(error, InputError):
        log.error("the training failed: %s", reason_of(error), exc_info=error)
    publish("failure", {"text": f"the training stopped: {reason_of(error)}"})
    publish("status", {"text": "stopped by an error", "busy": False})
