"""Recipes that come with the package: trees of constructor calls, found by name."""

from pathlib import Path

from diffsight.errors import InputError, suggest

FOLDER = Path(__file__).parent
LISTING = "`diffsight recipes`"


def names() -> tuple[str, ...]:
    """Return the names of all recipes: ``rooms/vpd_depth`` and the like."""
    paths = FOLDER.glob("*/*.yaml")
    return tuple(sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in paths))


def find(recipe: str | Path) -> Path:
    """Return the file of a recipe that is given by name or is a file itself.

    Raises:
        InputError: if there is none; names the nearest three.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    name = Path(recipe).as_posix()
    if name in names():
        return FOLDER / f"{name}.yaml"
    near = suggest(name, names(), listing=LISTING)
    raise InputError(f"no recipe {name!r}, neither a file nor a name: {near}")


def summary(name: str) -> str:
    """Return the first line of a recipe's comment."""
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
