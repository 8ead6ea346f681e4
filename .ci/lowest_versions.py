"""Print the lowest version that pyproject.toml allows of each runtime dependency, one pin a line.

The lines are a constraints file for pip. torch is left out, so pip takes the newest build that
pyproject.toml allows: one build of torch is large, and two of them would double the download.
"""

import re
import tomllib
from pathlib import Path

UNPINNED = {"torch"}


def lowest_pin(requirement: str) -> str:
    """Return ``name==version`` for a requirement such as ``name[extra]>=version,<limit``.

    One that is pinned already stays as it is.
    """
    name, lowest = re.match(r"([\w.-]+)", requirement), re.search(r"[>=]=\s*([\w.]+)", requirement)
    if name is None or lowest is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound: add >= or ==")
    return f"{name[1]}=={lowest[1]}"


project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]["nuscenes"]  # which the code imports too
pins = [lowest_pin(requirement) for requirement in (*project["dependencies"], *extras)]
print("\n".join(pin for pin in pins if pin.partition("==")[0] not in UNPINNED))
