"""The background thread that trains the model while the page is served."""

import logging
import threading
from typing import Any

from diffsight.studio.project import Project, Publish
from diffsight.studio.shared import Predicted, Shared

CLOSE_S = 5.0  # that the present step may take; after a kill nothing is lost either
log = logging.getLogger(__name__)


class Learner:
    """A thread that trains a model on the labels of a project, and predicts images.

    The large libraries of the training are imported in the thread, so that the page is there at
    once.

    Args:
        project: the labels.
        publish: called with the name of an event and its data.
        backbone: name of the frozen backbone, with its size.

    Attributes:
        shared: requests to the thread, and its results.
    """

    def __init__(self, project: Project, publish: Publish, backbone: str) -> None:
        self.shared = Shared(project.wake)
        self._project, self._publish, self._backbone = project, publish, backbone
        self._trainer: Any = None
        # no daemon: torch aborts the process if such a thread is running when Python ends
        self._thread = threading.Thread(target=self._run, name="learner")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, and wait for its present step.

        Python waits for a step that takes longer when the process ends.
        """
        self.shared.close()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_S)

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def open(self, number: int) -> None:
        """Predict this image first."""
        self.shared.open(number)

    def predicted(self, number: int) -> Predicted | None:
        """Return the prediction of an image; None if there is none."""
        return self.shared.predictions.get(number)

    def copy_model(self) -> Any:
        """Return a copy of the model, a ``LiveModel``; None if it was not trained yet."""
        return None if self._trainer is None else self._trainer.copy_model()

    def _run(self) -> None:
        self._publish("status", {"text": "loading the libraries", "busy": True})
        from diffsight.studio.trainer import Trainer, fail

        if self.shared.is_closed:
            return
        try:
            self._trainer = Trainer(self._project, self._publish, self._backbone, self.shared)
        except Exception as error:
            fail(self._publish, error)
            return
        self._trainer.run()
