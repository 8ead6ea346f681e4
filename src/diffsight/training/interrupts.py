"""Delay Ctrl-C to the end of a training step."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class TornStepError(KeyboardInterrupt):
    """Raised by a second Ctrl-C within a step, after which the model must not be saved.

    Weights and optimiser state may belong to different steps.
    """


@contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Return a context in which Ctrl-C takes effect at the end of a training step.

    It yields a function that must be called after every step. Outside the main thread, or if Ctrl-C
    has another handler than Python's, Ctrl-C is handled as without this context.

    Raises:
        KeyboardInterrupt: by the first call of that function after Ctrl-C.
        TornStepError: immediately, after a second Ctrl-C.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise TornStepError
        pressed = True
        log.info("stopping after this step; press Ctrl-C again to stop at once")

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
