"""Start the studio: claim the workspace, open the project, and serve the page."""

import contextlib
import logging
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
from diffsight.studio.project import Project
from diffsight.studio.security import Guard
from diffsight.studio.server import open_port, serve
from diffsight.studio.session import BACKBONE, Session

WORK = ".diffsight"
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
        port: see ``open_port``.
        is_example: whether to begin with rendered rooms and classes, in a new folder.
        opens_browser: whether to open the page in the browser.
        announce: called with the address of the page.

    Raises:
        InputError: if the folder, the workspace or the port cannot be used.
    """
    work = folder / WORK if work is None else work
    events = Events()

    def show(guard: Guard) -> None:
        announce(guard.url)
        if opens_browser:
            webbrowser.open(guard.url)

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(open_port(port)))
        if is_example:
            write_example(folder)
        list_photographs(folder, work)  # before a workspace is made in it
        stack.enter_context(_claim(work))
        project = stack.enter_context(contextlib.closing(Project(folder, work, events.publish)))
        if is_example:
            add_example_classes(project)
        learner = stack.enter_context(
            contextlib.closing(Learner(project, events.publish, BACKBONE))
        )
        learner.start()
        app = make_app(project, Session(project, learner), events)
        serve(app, listener, announce=show, stop=events.close)


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
