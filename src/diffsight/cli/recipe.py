"""A command whose options are the arguments of a function, with recipes to fill them in.

jsonargparse imports whatever a class path names while it parses. So a recipe is checked before the
parser sees it, and the parser gets the checked text: all that it can import are classes of
diffsight and of the packages of ``--trust``. A class that is typed on the command line is trusted;
it must still be a configurable class, which is checked before anything is built.
"""

import argparse
import importlib
import inspect
import itertools
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.flags import add_flag, texts_of
from diffsight.cli.options import Trust, package_of
from diffsight.errors import InputError
from diffsight.formats.text import parse_yaml, reading

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from diffsight.datasets.base import AbstractDataset

TRUST = inspect.Parameter("trust", inspect.Parameter.KEYWORD_ONLY, default=(), annotation=Trust)
NOT_ARGUMENTS = {"recipe", "trust"}  # options that the function does not have


def build_parser(
    function: Callable[..., Any],
    options: type,
    *,
    prog: str,
    switches: Sequence[str],
    description: str,
    epilog: str,
) -> "ArgumentParser":
    """Return a parser whose options are the arguments of ``function``.

    Args:
        function: whose signature is the schema; every class of diffsight has a short name.
        options: dataclass of the function's ``**options``.
        prog: name of the command.
        switches: names of options that are given without a value.
        description: of the command.
        epilog: end of the help.
    """
    import jsonargparse

    from diffsight.hub.build import PARTS

    for part in PARTS:  # importing makes the short names known
        importlib.import_module(f"diffsight.{part}")
    # jsonargparse 4.53 hands the null of an option three levels deep on as the word "None"
    load = jsonargparse.get_loader("yaml")
    jsonargparse.set_loader(
        "recipe", lambda text: None if text == "None" else parse_yaml(text, load), (ValueError,)
    )
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        parser_mode="recipe",
        exit_on_error=False,
        allow_abbrev=False,
        description=description,
        epilog=epilog,
    )
    parser.add_argument(
        "--recipe",
        action="config",
        metavar="FILE|NAME",
        help="values of the options below, from a file or a recipe of the package, such as "
        "rooms/vpd_depth (default: none)",
    )
    add_flag(parser, TRUST, {})
    fields = inspect.signature(options).parameters
    parser.add_function_arguments(function, skip=set(fields))
    parser.add_class_arguments(options, skip=set(switches))
    for name in switches:
        add_flag(parser, fields[name], texts_of(options))
    return parser


def parse(
    parser: "ArgumentParser", argv: Sequence[str], function: Callable[..., Any]
) -> "Namespace":
    """Return the settings of a command line; nothing is built yet.

    Raises:
        InputError: one line; for an unknown key or class it names the nearest.
    """
    import yaml

    from diffsight.cli.recipe_errors import explain, find_null
    from diffsight.hub.build import check_call

    words = [part for word in argv for part in _split(word)]
    trusted = _trusted(words)
    _check_typed(words, function)
    names = parser.get_defaults().as_dict().keys() - NOT_ARGUMENTS
    options = names - inspect.signature(function).parameters.keys()

    def checked(recipe: str) -> str:
        data = read(recipe)
        try:
            call = check_call(function, data, options=options, trusted=trusted)
        except InputError as error:
            raise InputError(f"{recipe}: {error}") from None
        return yaml.safe_dump(call, sort_keys=False)

    try:
        settings = parser.parse_args(_with_recipe_text(words, checked))
    except ArgumentError as error:
        raise InputError(f"{explain(error.message, names)}") from None
    arguments = {k: v for k, v in settings.as_dict().items() if k not in NOT_ARGUMENTS}
    if key := find_null(arguments):
        raise InputError(f"{key}: null is no value for it: leave it out, or give one")
    # functions and other classes than ours may have been imported, but are not called
    check_call(function, arguments, options=options, trusted=(*trusted, *_typed_packages(words)))
    return settings


def call(parser: "ArgumentParser", argv: Sequence[str], function: Callable[..., Any]) -> Any:
    """Return what ``function`` gives for a command line.

    Raises:
        InputError: as ``parse``.
    """
    from diffsight.training.rng import seed_all

    settings = parse(parser, argv, function)
    # parts of the model are built here already
    seed_all(settings.seed)
    arguments = parser.instantiate(settings).as_dict()
    return function(**{k: v for k, v in arguments.items() if k not in NOT_ARGUMENTS})


def read(recipe: "str | Path") -> dict[str, Any]:
    """Return a recipe, given by name or as a file, as data; its classes are not checked.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    import jsonargparse

    from diffsight import recipes
    from diffsight.datasets.files import read_text

    path = recipes.find(recipe)
    text = read_text(path, "a recipe")
    with reading(path, "not a readable recipe ({reason}): name another"):
        data = parse_yaml(text, jsonargparse.get_loader("yaml"))
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: not a readable recipe (no keys): name another")
    return dict(data)


def data_of_recipe(
    recipe: "str | Path", part: str, *, trusted: Sequence[str] = ()
) -> "AbstractDataset":
    """Return a data set of a recipe.

    Args:
        recipe: file or name.
        part: ``train`` or ``val``.
        trusted: packages besides diffsight whose classes the recipe may name.

    Raises:
        InputError: if the recipe has none, or the data set cannot be used.
    """
    from diffsight.datasets.base import AbstractDataset
    from diffsight.hub.build import construct

    data = read(recipe)
    if part not in data:
        what = {"train": "training", "val": "validation"}[part]
        raise InputError(f"{recipe}: has no {what} set ({part}): choose the data with --data")
    return construct(AbstractDataset, data[part], where=part, trusted=trusted)


def data_of(words: Sequence[str], *, trusted: Sequence[str] = ()) -> "AbstractDataset":
    """Return the data set that ``--data CLASS KEY=VALUE ...`` names.

    Args:
        words: class and arguments; whoever types a class's name trusts its package.
        trusted: further packages whose classes the arguments may name.

    Raises:
        InputError: if there is none, or it cannot be used.
    """
    from diffsight.datasets.base import AbstractDataset
    from diffsight.hub.build import construct

    name, *pairs = words
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"--data: {wrong[0]!r} is not of the form key=value")
    with reading("--data", "{reason}: write key=value"):
        arguments = {key: parse_yaml(v) for key, _, v in (pair.partition("=") for pair in pairs)}
    return construct(
        AbstractDataset,
        {"class_path": name, "init_args": arguments},
        where="--data",
        trusted=(*trusted, *_typed_packages(words)),
    )


def _typed_packages(words: Sequence[str]) -> tuple[str, ...]:
    """Return the packages of everything on a command line that may be the path of a class."""
    names = {name for word in words for name in re.findall(r"[A-Za-z_][\w.]*", word)}
    return tuple(sorted({package for name in names for package in package_of(name)}))


def _trusted(words: Sequence[str]) -> tuple[str, ...]:
    """Return the packages of ``--trust``; a recipe cannot give it."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flag(options, TRUST, {})
    return tuple(options.parse_known_args(words)[0].trust)


def _check_typed(words: Sequence[str], function: Callable[..., Any]) -> None:
    """Refuse options that name a function, or another class than ours, where an object belongs.

    The parser would import it, and says so in many lines.

    Raises:
        InputError: if one does.
    """
    from diffsight.hub.build import check, check_call, resolve_class

    trusted = _typed_packages(words)
    parameters = inspect.signature(function).parameters
    pairs = [word.partition("=")[::2] for word in words if "=" in word]
    for option, text in (*pairs, *itertools.pairwise(words)):
        key = option.removeprefix("--")
        if key == option:
            continue
        try:
            value = parse_yaml(text)
        except ValueError:
            continue
        if key.endswith(".class_path"):
            resolve_class(text, where=key.removesuffix(".class_path"), trusted=trusted)
        elif key in parameters:
            check_call(function, {key: value}, trusted=trusted)
        else:
            check(value, where=key, trusted=trusted)


def _with_recipe_text(words: list[str], checked: Callable[[str], str]) -> list[str]:
    """Return the command line with checked text in place of recipes; a resumed run has its own.

    Args:
        words: of the command line.
        checked: from the name of a recipe to its text; refuses classes that are not trusted.
    """
    if "--recipe" not in words and "--resume" in words and "--out" in words[:-1]:
        words = ["--recipe", str(Path(words[words.index("--out") + 1]) / "recipe.yaml"), *words]
    for place in range(1, len(words)):
        if words[place - 1] == "--recipe":
            words[place] = checked(words[place])
    return words


def _split(word: str) -> list[str]:
    options = ("--recipe=", "--out=", "--trust=")
    return word.split("=", 1) if word.startswith(options) else [word]
