"""Recipes that are installed with diffsight: YAML files with trees of constructor calls."""

import itertools
from pathlib import Path

from diffsight.errors import InputError, suggest

FOLDER = Path(__file__).parent
LISTING = "`diffsight recipes`"  # command that lists all names
TITLES = {  # of the folders, in the order of the list; others follow
    "rooms": "small models on rendered rooms, minutes on two CPU cores",
    "streets": "small models on rendered streets",
    "few_shot": "FewShot on all images of a data set, and VPD for comparison",
    "vpd": "VPD as the authors trained it, and on your own folders",
    "evp": "EVP as the authors trained it, and the rows of its table 4",
    "meta_prompts": "MetaPrompts as the authors trained it, and the rows of its table 5",
    "ddp": "DDP as the authors trained it, and the rows of its table 5",
    "pretrain": "the embedded diffusion model (`diffsight pretrain`)",
}


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
    """Return the first sentence of the comment at the start of a recipe."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return text.partition(". ")[0].removesuffix(".")


def groups() -> dict[str, list[str]]:
    """Return the names of the recipes in each folder of recipes, by a title of the folder."""
    folders = dict.fromkeys((*TITLES, *(name.partition("/")[0] for name in names())))
    return {
        f"{folder}: {TITLES[folder]}" if folder in TITLES else folder: [
            name for name in names() if name.startswith(f"{folder}/")
        ]
        for folder in folders
    }
