"""Commands whose options are the arguments of a function; recipes set many of them at once.

jsonargparse imports every class path while it parses. Therefore a recipe is checked before the
parser reads it, and the parser gets the checked text: it can only import classes of diffsight and
of the packages of ``--trust``. A class that is named on the command line is trusted. It must still
be a configurable class, which is checked before anything is built.
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
NOT_ARGUMENTS = {"recipe", "trust"}  # options that are not arguments of the function


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
        function: function whose signature defines the options. Classes of diffsight may be given by
            their short names.
        options: dataclass of the function's ``**options``.
        prog: name of the program and command, such as ``diffsight fit``.
        switches: names of options without a value.
        description: description of the command, at the start of the help.
        epilog: end of the help.
    """
    import jsonargparse

    from diffsight.hub.classes import PARTS

    for part in PARTS:  # importing registers the short names
        importlib.import_module(f"diffsight.{part}")
    # jsonargparse 4.53 passes the null of an option three levels deep on as the string "None"
    load = jsonargparse.get_loader("yaml")
    jsonargparse.set_loader(
        "recipe", lambda text: None if text == "None" else parse_yaml(text, load), (ValueError,)
    )
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        formatter_class=_help_formatter(),
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
        help="recipe with values for the options below: a YAML file, or a name that `diffsight "
        "recipes` lists, such as rooms/vpd_depth; options after it override its values "
        "(default: none)",
    )
    add_flag(parser, TRUST, {})
    fields = inspect.signature(options).parameters
    parser.add_function_arguments(function, skip=set(fields))
    parser._action_groups[-1].title = "parts of the recipe"
    parser.add_class_arguments(options, skip=set(switches))
    parser._action_groups[-1].title = "settings of the recipe"
    for name in switches:
        add_flag(parser, fields[name], texts_of(options))
    return parser


def _help_formatter() -> type:
    """Return jsonargparse's help formatter without names of types and lists of all classes."""
    from argparse import SUPPRESS, Action

    from jsonargparse import DefaultHelpFormatter

    class HelpFormatter(DefaultHelpFormatter):
        def _get_help_string(self, action: Action) -> str:
            text = (action.help or "").rstrip(".").replace("``", "`")
            if action.required:
                return f"{text} (required)"
            is_unset = any(action.default is one for one in (None, False, SUPPRESS))
            return text if is_unset or "default" in text else f"{text} (default: %(default)s)"

        def add_argument(self, action: Action) -> None:
            # --KEY.help is described once, at the top
            if not any(option.endswith(".help") for option in action.option_strings):
                super().add_argument(action)

    return HelpFormatter


def parse(
    parser: "ArgumentParser", argv: Sequence[str], function: Callable[..., Any]
) -> "Namespace":
    """Return the settings of a command line, without building any object.

    Raises:
        InputError: if an option or the recipe is wrong; suggests the nearest key or class.
    """
    import yaml

    from diffsight.cli.recipe_errors import explain, find_null
    from diffsight.hub.build import check_call

    tokens = [part for token in argv for part in _split(token)]
    trusted = _trusted(tokens)
    _check_named(tokens, function)
    names = parser.get_defaults().as_dict().keys() - NOT_ARGUMENTS
    options = names - inspect.signature(function).parameters.keys()

    def checked(recipe: str) -> str:
        data = read(recipe)
        if data.get(TRUST.name) == []:  # as --print_config writes it
            del data[TRUST.name]
        try:
            call = check_call(function, data, options=options, trusted=trusted)
        except InputError as error:
            raise InputError(f"{recipe}: {error}") from None
        return yaml.safe_dump(call, sort_keys=False)

    try:
        settings = parser.parse_args(_with_recipe_text(tokens, checked))
    except ArgumentError as error:
        valid, has_recipe = {*names, *NOT_ARGUMENTS}, "--recipe" in tokens
        raise InputError(explain(error.message, valid, has_recipe=has_recipe)) from None
    arguments = {k: v for k, v in settings.as_dict().items() if k not in NOT_ARGUMENTS}
    if key := find_null(arguments):
        raise InputError(f"{key}: null is not allowed: leave the key out, or give a value")
    # functions and classes outside diffsight may have been imported, but are not called
    check_call(function, arguments, options=options, trusted=(*trusted, *_named_packages(tokens)))
    return settings


def call(parser: "ArgumentParser", argv: Sequence[str], function: Callable[..., Any]) -> Any:
    """Call ``function`` with the arguments of a command line, and return its result.

    Raises:
        InputError: if an option or the recipe is wrong; suggests the nearest key or class.
    """
    from diffsight.training.rng import seed_all

    settings = parse(parser, argv, function)
    # parts of the model, with random weights, are built here
    seed_all(settings.seed)
    arguments = parser.instantiate(settings).as_dict()
    return function(**{k: v for k, v in arguments.items() if k not in NOT_ARGUMENTS})


def read(recipe: "str | Path") -> dict[str, Any]:
    """Return the content of a recipe, by name or file; its classes are not checked.

    Raises:
        InputError: if it does not exist or cannot be read.
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
        InputError: if the recipe has no such data set, or it cannot be used.
    """
    from diffsight.datasets.base import AbstractDataset
    from diffsight.hub.build import construct

    data = read(recipe)
    if part not in data:
        kind = {"train": "training", "val": "validation"}[part]
        raise InputError(f"{recipe}: has no {kind} set ({part}): choose the data with --data")
    return construct(AbstractDataset, data[part], key=part, trusted=trusted)


def data_of(tokens: Sequence[str], *, trusted: Sequence[str] = ()) -> "AbstractDataset":
    """Return the data set that ``--data CLASS KEY=VALUE ...`` names.

    Args:
        tokens: class and arguments; the package of the class is trusted.
        trusted: further packages whose classes the arguments may name.

    Raises:
        InputError: if the class does not exist, or the data set cannot be used.
    """
    from diffsight.datasets.base import AbstractDataset
    from diffsight.hub.build import construct

    name, *pairs = tokens
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"--data: {wrong[0]!r} is not of the form key=value")
    with reading("--data", "{reason}: write key=value"):
        arguments = {key: parse_yaml(v) for key, _, v in (pair.partition("=") for pair in pairs)}
    return construct(
        AbstractDataset,
        {"class_path": name, "init_args": arguments},
        key="--data",
        trusted=(*trusted, *_named_packages(tokens)),
    )


def _named_packages(tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the packages of all strings on a command line that may be class paths."""
    names = {name for token in tokens for name in re.findall(r"[A-Za-z_][\w.]*", token)}
    return tuple(sorted({package for name in names for package in package_of(name)}))


def _trusted(tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the packages of ``--trust``; a recipe cannot give it."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flag(options, TRUST, {})
    return tuple(options.parse_known_args(tokens)[0].trust)


def _check_named(tokens: Sequence[str], function: Callable[..., Any]) -> None:
    """Check that options for objects name configurable classes, not functions or other classes.

    jsonargparse would import them, and print many lines.

    Raises:
        InputError: if an option names anything else.
    """
    from diffsight.hub.build import check, check_call
    from diffsight.hub.classes import resolve_class

    trusted = _named_packages(tokens)
    parameters = inspect.signature(function).parameters
    pairs = [token.partition("=")[::2] for token in tokens if "=" in token]
    for option, text in (*pairs, *itertools.pairwise(tokens)):
        key = option.removeprefix("--")
        if key == option:
            continue
        try:
            value = parse_yaml(text)
        except ValueError:
            continue
        if key.endswith(".class_path"):
            resolve_class(text, key=key.removesuffix(".class_path"), trusted=trusted)
        elif key in parameters:
            check_call(function, {key: value}, trusted=trusted)
        else:
            check(value, key=key, trusted=trusted)


def _with_recipe_text(tokens: list[str], checked: Callable[[str], str]) -> list[str]:
    """Return the command line with the checked text of recipes instead of their names.

    A resumed run without ``--recipe`` uses the recipe in its folder.

    Args:
        tokens: arguments of the command line.
        checked: function that takes the name of a recipe and returns its text; it raises an error
            for classes that are not trusted.
    """
    if "--recipe" not in tokens and "--resume" in tokens and "--out" in tokens[:-1]:
        tokens = ["--recipe", str(Path(tokens[tokens.index("--out") + 1]) / "recipe.yaml"), *tokens]
    for i in range(1, len(tokens)):
        if tokens[i - 1] == "--recipe":
            tokens[i] = checked(tokens[i])
    return tokens


def _split(token: str) -> list[str]:
    options = ("--recipe=", "--out=", "--trust=")
    return token.split("=", 1) if token.startswith(options) else [token]
