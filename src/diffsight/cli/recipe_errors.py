"""Rewrite error messages of jsonargparse about a recipe as one line, with the nearest key."""

import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from diffsight.config import Configurable
from diffsight.errors import suggest

UNKNOWN = re.compile(r"Option '([\w.-]+)' is not accepted|unrecognized arguments: -*([\w.-]+)")
UNDASHED = re.compile(r"unrecognized arguments: ([^-\s]\S*)")
NO_CLASS = re.compile(r"dot import path string: ([\w.]*\w)|No module named '([\w.]+)'")
NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
MISSING = re.compile(r"the following arguments are required: ([\w., -]+)")
WRONG_KIND = re.compile(r"Expected '([\w.]+)' to be a [\w ]+ <class '(\w+)'>")
KEY_PATH = re.compile(r'Parser key "([^"]+)"')
CLASS_BEFORE = re.compile(r"Problem with given class_path '([\w.]+)'")
CLASS_AFTER = re.compile(r"class_path='([\w.]+)'")


def explain(message: str, options: Collection[str], *, has_recipe: bool) -> str:
    """Return an error message of one line.

    Args:
        message: message of jsonargparse.
        options: names of the command's options.
        has_recipe: whether the command line has ``--recipe``.
    """
    if match := UNDASHED.search(message):
        return f"{match[1]!r} belongs to no option: write options as --key value or --key=value"
    if match := UNKNOWN.search(message):
        key = (match[1] or match[2]).removeprefix("init_args.")
        owner = _owner(message, match)
        valid = options if owner is None else inspect.signature(owner).parameters
        at = _key_path(message[: match.start()])
        name, of_class = key.split(".")[0], f" of {owner.__name__}" if owner else ""
        return f"unknown key {_join(at, name)!r}{of_class}: {suggest(name, valid)}"
    if match := NO_CLASS.search(message):
        return _no_class(message, match, match[1] or match[2])
    if match := NO_ATTRIBUTE.search(message):
        return _no_class(message, match, f"{match[1]}.{match[2]}")
    if match := MISSING.search(message):
        at = _key_path(message[: match.start()])
        keys = ", ".join(_join(at, name) for name in match[1].split(", "))
        if not has_recipe:
            return f"no --recipe: give one that `diffsight recipes` lists, or a file ({keys})"
        if keys == "out":
            return "no --out: give the folder of the run"
        return f"the recipe lacks {keys}"
    key_path = _key_path(message)
    if match := WRONG_KIND.search(message):
        return f"{key_path}: {match[1]!r} is not a class that is derived from {match[2]}"
    text = " ".join(message.split())
    reason = re.sub(r"(Does not validate .*? Errors:|Parser key \"[^\"]+\":)", "", text).strip()
    return f"{key_path}: {reason}" if key_path else reason


def find_null(value: Any, prefix: str = "") -> str | None:
    """Return the first key with a null that its argument does not allow; None without any.

    jsonargparse does not report them.

    Args:
        value: settings: constructor calls, lists and values.
        prefix: dotted key of ``value``.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts: Iterable[tuple[str, Any]] = ((prefix, one) for one in value)
    elif isinstance(value, Mapping):
        call = "class_path" in value
        arguments = value.get("init_args", {}) if call else value
        if call and (names := _refuses_null(value["class_path"], arguments)):
            return _join(prefix, names[0])
        parts = ((_join(prefix, str(name)), one) for name, one in arguments.items())
    else:
        return None
    return next(filter(None, (find_null(one, key) for key, one in parts)), None)


def _refuses_null(path: str, arguments: Mapping[str, Any]) -> list[str]:
    nulls = [name for name, value in arguments.items() if value is None]
    try:
        hints = get_type_hints(_imported(path).__init__) if nulls else {}
    except NameError:  # the class imports types only under TYPE_CHECKING
        return []
    hinted = {name: hints[name] for name in nulls if name in hints}
    return [n for n, hint in hinted.items() if hint is not Any and type(None) not in get_args(hint)]


def _no_class(message: str, match: re.Match[str], name: str) -> str:
    at = _key_path(message[: match.start()])
    valid = {cls.__name__ for cls in _concrete(Configurable)}
    return f"{at}: there is no class {name!r}: {suggest(name.rpartition('.')[2], valid)}"


def _owner(message: str, match: re.Match[str]) -> type | None:
    """Return the class whose key is unknown; None for the command itself."""
    nested = [m.end() for m in KEY_PATH.finditer(message[: match.start()])]
    if not nested:
        return None
    near = CLASS_BEFORE.search(message, nested[-1], match.start())
    near = near or CLASS_AFTER.search(message, match.end())
    if near is None:
        return None
    return _imported(near[1])


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _concrete(base: type) -> Iterable[type]:
    for cls in base.__subclasses__():
        if not inspect.isabstract(cls):
            yield cls
        yield from _concrete(cls)


def _key_path(message: str) -> str:
    return ".".join(KEY_PATH.findall(message))


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
