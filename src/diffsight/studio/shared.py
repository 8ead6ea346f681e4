"""What the requests of the page and the training thread share. It imports no large library."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask

MAX_PREDICTIONS = 64  # in memory


@dataclass(frozen=True)
class Predicted:
    """The prediction of an image.

    Attributes:
        task: task of the model.
        output: reduced output at the size at which the backbone saw the image.
        version: number of the model that predicted it.
    """

    task: AbstractTask
    output: Output
    version: int


class Predictions:
    """The last predictions of the model, by image id. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: OrderedDict[int, Predicted] = OrderedDict()

    def get(self, number: int) -> Predicted | None:
        """Return the prediction of an image; None if there is none."""
        with self._lock:
            return self._rows.get(number)

    def put(self, number: int, predicted: Predicted) -> None:
        """Store the prediction of an image, and forget the oldest if there are too many."""
        with self._lock:
            self._rows[number] = predicted
            self._rows.move_to_end(number)
            while len(self._rows) > MAX_PREDICTIONS:
                self._rows.popitem(last=False)

    def clear(self) -> None:
        """Forget all predictions."""
        with self._lock:
            self._rows.clear()


@dataclass
class Shared:
    """Requests to the training thread, and its results.

    Attributes:
        wake: called to end the waiting of the thread.
        current: id of the image on the screen; None before one was opened.
        opened: number of times that an image was opened.
        is_closed: whether the thread should end.
        predictions: predictions of the present model.
        vectors: mean features by image id, for all images that have been read so far.
    """

    wake: Callable[[], None]
    current: int | None = None
    opened: int = 0
    is_closed: bool = False
    predictions: Predictions = field(default_factory=Predictions)
    vectors: dict[int, Float[Tensor, " c"]] = field(default_factory=dict)

    def open(self, number: int) -> None:
        """Put an image on the screen."""
        self.current = number
        self.opened += 1
        self.wake()

    def close(self) -> None:
        """End the thread."""
        self.is_closed = True
        self.wake()
