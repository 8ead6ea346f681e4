"""Names of the files that ``explain`` writes to a folder, and how they are recognised later."""

import contextlib
from pathlib import Path

from diffsight.formats.text import read_object

EXPLAINED = "explain.json"
UNFINISHED = f".{EXPLAINED}.unfinished"  # lists the files while they are written
PICTURES = frozenset(
    f"{name}.png" for name in ("concepts", "maps", "rearranged", "codebook", "bins", "steps")
)
KEYS = frozenset(("pictures", "kind", "method"))  # of explain.json


def list_explanation(folder: Path) -> set[str]:
    """Return the names of the files that earlier runs wrote to a folder, with ``explain.json``.

    ``explain.json`` lists them. Files that a killed process began are in the list too. The result
    is empty if ``explain.json`` is missing, or is a file of another program.

    Args:
        folder: folder of the files; it need not exist.
    """
    names: set[str] = set()
    for file in (EXPLAINED, UNFINISHED):
        with contextlib.suppress(OSError, ValueError):
            about = read_object(folder / file)
            if about.keys() >= KEYS and isinstance(about["pictures"], dict):
                pictures = [one for one in about["pictures"].values() if isinstance(one, str)]
                names |= {EXPLAINED, *PICTURES.intersection(pictures)}
    return names
