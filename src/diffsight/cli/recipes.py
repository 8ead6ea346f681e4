"""``diffsight recipes``: list the recipes that are installed with diffsight, or print one."""

import sys
from typing import Annotated

from diffsight import recipes
from diffsight.cli.console import write_json
from diffsight.cli.flags import Flag, command
from diffsight.cli.show import write_names
from diffsight.formats.text import read_text, reading


@command("recipes")
def main(recipe: Annotated[str | None, Flag("NAME")] = None, *, json: bool = False) -> int:
    """List the installed recipes, or print one as a start for your own.

    Args:
        recipe: name of the recipe to print (default: list all recipes).

    Example:
        diffsight recipes rooms/vpd_depth > mine.yaml
    """
    if recipe is None:
        if json:
            write_json({name: recipes.summary(name) for name in recipes.names()}, indent=1)
            return 0
        for number, (title, names) in enumerate(recipes.groups().items()):
            sys.stdout.write(("\n" if number else "") + f"{title}\n")
            write_names({f"  {name}": recipes.summary(name) for name in names}, as_json=False)
    elif json:
        from diffsight.cli.recipe import read

        write_json(read(recipe), indent=1)
    else:
        path = recipes.find(recipe)
        with reading(path, "not a readable recipe ({reason}): name another"):
            text = read_text(path)
        sys.stdout.write(text)
    return 0
