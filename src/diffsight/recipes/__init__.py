"""Recipes that are installed with diffsight: YAML files with trees of constructor calls."""

from pathlib import Path

from diffsight.errors import InputError, suggest

FOLDER = Path(__file__).parent
LISTING = "`diffsight recipes`"  # command that lists all names


def names() -> tuple[str, ...]:
    """Return the sorted names of all recipes, such as ``rooms/vpd_depth``."""
    paths = FOLDER.glob("*/*.yaml")
    return tuple(sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in paths))


def find(recipe: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        recipe: name of a recipe, or path of a file.

    Raises:
        InputError: if there is none; suggests the three nearest names.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    name = Path(recipe).as_posix()
    if name in names():
        return FOLDER / f"{name}.yaml"
    near = suggest(name, names(), listing=LISTING)
    raise InputError(f"no recipe {name!r}, neither a file nor a name: {near}")


def summary(name: str) -> str:
    """Return the first line of the comment at the start of a recipe."""
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
