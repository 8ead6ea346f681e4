"""A command whose options are the arguments of a function, with recipes to fill them in."""

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from diffsight.datasets.base import AbstractDataset


def build_parser(
    function: Callable[..., Any], *, prog: str, flags: dict[str, str], description: str
) -> "ArgumentParser":
    """Options are the arguments of ``function``; every class of diffsight has a short name.

    Args:
        function: whose signature is the schema.
        prog: name of the command.
        flags: arguments that are switches, with their help.
        description: of the command.
    """
    import jsonargparse
    import yaml

    import diffsight.backbones
    import diffsight.datasets
    import diffsight.heads
    import diffsight.methods
    import diffsight.necks
    import diffsight.prompts
    import diffsight.rooms
    import diffsight.tasks  # noqa: F401 - importing makes the short names known

    # jsonargparse 4.53 hands the null of an option three levels deep on as the word "None"
    load = jsonargparse.get_loader("yaml")
    jsonargparse.set_loader(
        "recipe", lambda text: None if text == "None" else load(text), (yaml.YAMLError,)
    )
    parser = jsonargparse.ArgumentParser(
        prog=prog, parser_mode="recipe", exit_on_error=False, description=description
    )
    parser.add_argument(
        "--recipe", action="config", metavar="FILE|NAME", help="such as rooms/vpd_depth"
    )
    parser.add_function_arguments(function, skip=set(flags))
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def parse(
    parser: "ArgumentParser", argv: Sequence[str], function: Callable[..., Any]
) -> "Namespace":
    """The settings of a command line, nothing built yet.

    Raises:
        InputError: one line; for an unknown key or class it names the nearest.
    """
    from diffsight.cli.recipe_errors import explain, find_null

    try:
        settings = parser.parse_args(_with_file(argv))
    except ArgumentError as error:
        raise InputError(f"{explain(error.message, function)}") from None
    if key := find_null(settings.as_dict()):
        raise InputError(f"{key}: null is no value for it: leave it out, or give one")
    return settings


def call(parser: "ArgumentParser", argv: Sequence[str], function: Callable[..., Any]) -> Any:
    """What ``function`` gives for a command line.

    Raises:
        InputError: as ``parse``.
    """
    from lightning.pytorch import seed_everything

    settings = parse(parser, argv, function)
    # parts of the model are built here already
    seed_everything(settings.seed, verbose=False)
    arguments = parser.instantiate(settings).as_dict()
    del arguments["recipe"]
    return function(**arguments)


def read(recipe: "str | Path") -> Mapping[str, Any]:
    """A recipe as data, given by name or as a file.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    import yaml

    from diffsight import recipes

    path = recipes.find(recipe)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable recipe ({reason}): name another") from None
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: not a readable recipe (no keys): name another")
    return data


def data_of_recipe(recipe: "str | Path", part: str) -> "AbstractDataset":
    """The data set of a recipe; ``part`` is ``train`` or ``val``.

    Raises:
        InputError: if it has none, or the data set cannot be used.
    """
    from diffsight.datasets.base import AbstractDataset
    from diffsight.hub.build import construct

    data = read(recipe)
    if part not in data:
        what = {"train": "training", "val": "validation"}[part]
        raise InputError(f"{recipe}: has no {what} set ({part}): choose the data with --data")
    return construct(AbstractDataset, data[part], where=part)


def data_of(words: Sequence[str]) -> "AbstractDataset":
    """The data set that ``--data CLASS KEY=VALUE ...`` names.

    Raises:
        InputError: if there is none, or it cannot be used.
    """
    import yaml

    from diffsight.datasets.base import AbstractDataset
    from diffsight.hub.build import TRUSTED, construct

    name, *pairs = words
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"--data: {wrong[0]!r} is not of the form key=value")
    arguments = {key: yaml.safe_load(v) for key, _, v in (pair.partition("=") for pair in pairs)}
    call = {"class_path": name, "init_args": arguments}
    # whoever types a class's name trusts it
    return construct(
        AbstractDataset, call, where="--data", trusted=(*TRUSTED, name.partition(".")[0])
    )


def _with_file(argv: Sequence[str]) -> list[str]:
    """A recipe given by name becomes its file; a resumed run brings its own."""
    from diffsight import recipes

    words = [part for word in argv for part in _split(word)]
    if "--recipe" in words:
        for place in range(1, len(words)):
            if words[place - 1] == "--recipe":
                words[place] = str(recipes.find(words[place]))
    elif "--resume" in words and "--out" in words[:-1]:
        own = Path(words[words.index("--out") + 1]) / "recipe.yaml"
        words = ["--recipe", str(recipes.find(own)), *words]
    return words


def _split(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith(("--recipe=", "--out=")) else [word]
