"""Ctrl-C takes effect between the steps of a training, not within one."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class TornStepError(KeyboardInterrupt):
    """A second Ctrl-C, within a step: weights and optimiser may be of different steps."""


@contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Yield a function to be called after every step; the first Ctrl-C waits for that call.

    Nothing changes outside the main thread, or if Ctrl-C has another handler.

    Raises:
        KeyboardInterrupt: from the next call after a Ctrl-C.
        TornStepError: at once, after a second Ctrl-C.
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
