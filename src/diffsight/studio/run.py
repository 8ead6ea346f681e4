"""Start the studio: claim the workspace, open the project, and serve the page."""

import contextlib
import logging
import os
import socket
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from diffsight.errors import InputError
from diffsight.locks import claim_folder
from diffsight.studio.app import make_app
from diffsight.studio.events import Events
from diffsight.studio.example import add_example_classes, write_example
from diffsight.studio.images import list_photographs
from diffsight.studio.learner import Learner
from diffsight.studio.log import write_synced
from diffsight.studio.project import Project
from diffsight.studio.security import Guard
from diffsight.studio.server import open_port, serve
from diffsight.studio.session import BACKBONE, Session

WORK, PORT = ".diffsight", "port"
log = logging.getLogger(__name__)


def run_studio(
    folder: Path,
    *,
    work: Path | None,
    port: int | None,
    is_example: bool = False,
    opens_browser: bool = False,
    announce: Callable[[str], None],
) -> None:
    """Serve the studio until Ctrl-C.

    Args:
        folder: folder of the photographs.
        work: workspace; default: ``.diffsight`` in the folder.
        port: see ``open_port``; without one, the port of the last start is tried first.
        is_example: whether to begin with rendered rooms and classes, in a new folder.
        opens_browser: whether to open the page in the browser.
        announce: called with the address of the page.

    Raises:
        InputError: if the folder, the workspace or the port cannot be used.
    """
    folder = Path(os.path.realpath(folder))  # the page and the export name it
    work = folder / WORK if work is None else Path(os.path.realpath(work))
    events = Events()

    def show(guard: Guard) -> None:
        announce(guard.url)
        if opens_browser:
            webbrowser.open(guard.url)

    with contextlib.ExitStack() as stack:
        last = _read_port(work)  # where a browser may keep strokes
        listener = stack.enter_context(contextlib.closing(open_port(port, last)))
        if is_example:
            write_example(folder)
        list_photographs(folder, work)  # before a workspace is made in it
        stack.enter_context(_claim(work))
        project = stack.enter_context(contextlib.closing(Project(folder, work, events.publish)))
        _store_port(work, listener, last)
        if is_example:
            add_example_classes(project)
        learner = stack.enter_context(
            contextlib.closing(Learner(project, events.publish, BACKBONE))
        )
        learner.start()
        app = make_app(project, Session(project, learner), events)
        serve(app, listener, announce=show, stop=events.close)


def _read_port(work: Path) -> int | None:
    """Return the port of the last start; None if it is unknown."""
    try:
        number = int((work / PORT).read_text(encoding="ascii")[:10])
    except (OSError, ValueError):
        return None
    return number if 0 < number < 65536 else None


def _store_port(work: Path, listener: socket.socket, last: int | None) -> None:
    """Store the port for the next start, and warn if it is not that of the last start.

    The storage of a browser belongs to an address with its port.
    """
    number = listener.getsockname()[1]
    if number == last:
        return
    if last is not None:
        log.warning(
            "the page was at port %d before: strokes that a browser keeps there are saved when the "
            "studio is started with --port %d",
            *(last, last),
        )
    try:
        write_synced(work / PORT, f"{number}\n".encode())
    except InputError as error:
        log.warning("the port is not stored for the next start: %s", error)


@contextlib.contextmanager
def _claim(work: Path) -> Iterator[None]:
    """Keep other servers from the workspace.

    Raises:
        InputError: if another server has it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claim_folder(work))
        except InputError as error:
            text = str(error).replace("wait for it, or give", "close that studio, or give")
            raise InputError(text.replace("--out", "--work DIR")) from None
        yield
