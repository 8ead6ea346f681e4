"""``diffsight studio``: label photographs in the browser while a model is trained."""

import importlib.util
import sys
from pathlib import Path

from diffsight.cli import options
from diffsight.cli.flags import command
from diffsight.errors import InputError, MissingExtraError

EXAMPLE = "studio-example"  # folder of the rendered rooms


@command("studio")
def main(
    folder: Path | None = None,
    *,
    example: bool = False,
    work: options.Folder | None = None,
    port: int | None = None,
    no_open: bool = False,
) -> int:
    """Label photographs in the browser while a model is trained on the labels.

    The command prints the address of a page on this machine, and opens it. Every stroke is on disk
    before the page shows it as saved. End it with Ctrl-C; the next start continues where it was.

    Args:
        folder: folder of the photographs, or of the frames of a film.
        example: start with rendered rooms (default folder: studio-example).
        work: folder for labels, features and the export (default: .diffsight in the folder of the
            photographs).
        port: port of the page (default: that of the last start, else 8765, or a free one if that is
            in use).
        no_open: only print the address; do not open it in the browser.

    Example:
        diffsight studio photos
    """
    require_extra()
    if folder is None and not example:
        raise InputError("no folder: give the folder of your photographs, or --example")
    from diffsight.studio.run import run_studio

    folder = folder or Path(EXAMPLE)

    def announce(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    run_studio(
        folder,
        work=work,
        port=port,
        is_example=example,
        opens_browser=not no_open,
        announce=announce,
    )
    return 0


def require_extra() -> None:
    """Check that the libraries of the server are installed.

    Raises:
        MissingExtraError: if one is missing.
    """
    missing = [name for name in ("starlette", "uvicorn") if not importlib.util.find_spec(name)]
    if missing:
        raise MissingExtraError(f"{missing[0]} is not installed: pip install 'diffsight[studio]'")
