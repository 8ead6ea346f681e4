"""Run an application on this machine until Ctrl-C."""

import asyncio
import contextlib
import errno
import logging
import socket
import sys
import warnings
from collections.abc import Callable
from types import FrameType

import uvicorn
from PIL import Image

from diffsight.errors import InputError
from diffsight.studio.security import HOST, Application, Guard, make_token

DEFAULT_PORT = 8765
CLOSE_S = 3  # for requests that are running when the server stops
log = logging.getLogger(__name__)


def open_port(port: int | None, last: int | None = None) -> socket.socket:
    """Return a socket that listens on this machine only.

    Args:
        port: number of the port, 0 for any free one; None: ``last``, or ``DEFAULT_PORT`` if that
            cannot be used, or else a free one.
        last: port that is tried first if no port is given.

    Raises:
        InputError: if the port is in use, or not allowed.
    """
    if port is not None and not 0 <= port < 65536:
        raise InputError(f"--port {port}: give a number from 0 to 65535")
    for number in (last, DEFAULT_PORT) if port is None else ():
        if number is not None:
            with contextlib.suppress(InputError):
                return _listen(number)
    return _listen(port or 0)


def _listen(number: int) -> socket.socket:
    """Return a socket that listens on a port, or on a free one if the number is 0.

    Raises:
        InputError: if the port is in use, or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would let two servers listen on one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, number))
        listener.listen(128)
    except OSError as error:
        listener.close()
        is_used = error.errno == errno.EADDRINUSE
        reason = "in use by another program" if is_used else error.strerror or str(error)
        raise InputError(f"port {number}: {reason}: give another --port, or --port 0") from None
    return listener


def serve(
    app: Application,
    listener: socket.socket,
    *,
    announce: Callable[[Guard], None],
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        app: application, which gets the requests that the guard lets pass.
        listener: socket of ``open_port``; it is closed at the end.
        announce: called with the guard, which has the address, before the first request.
        stop: called when the server begins to stop; it ends streams that would never end.

    Raises:
        InputError: if the token in the environment cannot be used.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    with contextlib.closing(listener):
        guard = Guard(app, listener.getsockname()[1], make_token())
        config = uvicorn.Config(
            guard,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would contain the token
            server_header=False,
            timeout_graceful_shutdown=CLOSE_S,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        server = _Server(config, stop)
        announce(guard)
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that ends its streams when it receives a signal to stop."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal."""
        self._stop()
        super().handle_exit(sig, frame)
