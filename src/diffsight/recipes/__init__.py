"""Recipes that come with the package: trees of constructor calls, found by name."""

import difflib
from pathlib import Path

from diffsight.errors import InputError

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """``rooms/vpd_depth`` and the like."""
    paths = FOLDER.glob("*/*.yaml")
    return tuple(sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in paths))


def find(recipe: str | Path) -> Path:
    """The file of a recipe that is given by name or is a file itself.

    Raises:
        InputError: if there is none; names the nearest.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    name = Path(recipe).as_posix()
    if name in names():
        return FOLDER / f"{name}.yaml"
    (near,) = difflib.get_close_matches(name, names(), n=1, cutoff=0)
    raise InputError(
        f"no recipe {name!r}, neither a file nor a name: did you mean {near!r}? "
        f"(known: {', '.join(names())})"
    )
