"""Errors of jsonargparse about a wrong recipe become one line, with the nearest key."""

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from diffsight.config import Configurable
from diffsight.hub.build import nearest

UNKNOWN = re.compile(r"Option '([\w.-]+)' is not accepted|unrecognized arguments: -*([\w.-]+)")
UNDASHED = re.compile(r"unrecognized arguments: ([^-\s]\S*)")
NO_CLASS = re.compile(r"dot import path string: ([\w.]*\w)|No module named '([\w.]+)'")
NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
MISSING = re.compile(r"the following arguments are required: ([\w., -]+)")
WRONG_KIND = re.compile(r"Expected '([\w.]+)' to be a [\w ]+ <class '(\w+)'>")
PLACE = re.compile(r'Parser key "([^"]+)"')
CLASS_BEFORE = re.compile(r"Problem with given class_path '([\w.]+)'")
CLASS_AFTER = re.compile(r"class_path='([\w.]+)'")


def explain(message: str, options: Iterable[str]) -> str:
    """Return one line for the user.

    Args:
        message: of jsonargparse's error.
        options: names of the command's options.
    """
    if found := UNDASHED.search(message):
        return f"{found[1]!r} belongs to no option: write options as --key value or --key=value"
    if found := UNKNOWN.search(message):
        key = (found[1] or found[2]).removeprefix("init_args.")
        owner = _owner(message, found)
        known = options if owner is None else inspect.signature(owner).parameters
        at = _where(message[: found.start()])
        name, whose = key.split(".")[0], f" of {owner.__name__}" if owner else ""
        return f"unknown key {_join(at, name)!r}{whose}{nearest(name, known)}"
    if found := NO_CLASS.search(message):
        return _no_class(message, found, found[1] or found[2])
    if found := NO_ATTRIBUTE.search(message):
        return _no_class(message, found, f"{found[1]}.{found[2]}")
    if found := MISSING.search(message):
        at = _where(message[: found.start()])
        return f"the recipe lacks {', '.join(_join(at, n) for n in found[1].split(', '))}"
    place = _where(message)
    if found := WRONG_KIND.search(message):
        return f"{place}: {found[1]!r} is no class that is derived from {found[2]}"
    text = " ".join(message.split())
    reason = re.sub(r"(Does not validate .*? Errors:|Parser key \"[^\"]+\":)", "", text).strip()
    return f"{place}: {reason}" if place else reason


def find_null(value: Any, where: str = "") -> str | None:
    """Return the key of a null for an argument that takes none; jsonargparse lets it pass."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts: Iterable[tuple[str, Any]] = ((where, one) for one in value)
    elif isinstance(value, Mapping):
        call = "class_path" in value
        arguments = value.get("init_args", {}) if call else value
        if call and (names := _refuses_null(value["class_path"], arguments)):
            return _join(where, names[0])
        parts = ((_join(where, str(name)), one) for name, one in arguments.items())
    else:
        return None
    return next(filter(None, (find_null(one, place) for place, one in parts)), None)


def _refuses_null(path: str, arguments: Mapping[str, Any]) -> list[str]:
    nulls = [name for name, value in arguments.items() if value is None]
    try:
        hints = get_type_hints(_imported(path).__init__) if nulls else {}
    except NameError:  # a class that imports its types under TYPE_CHECKING only
        return []
    known = {name: hints[name] for name in nulls if name in hints}
    return [n for n, hint in known.items() if hint is not Any and type(None) not in get_args(hint)]


def _no_class(message: str, found: re.Match[str], name: str) -> str:
    at = _where(message[: found.start()])
    known = {cls.__name__ for cls in _concrete(Configurable)}
    return f"{at}: there is no class {name!r}{nearest(name.rpartition('.')[2], known)}"


def _owner(message: str, found: re.Match[str]) -> type | None:
    """Return the class whose key is unknown; None for the command itself."""
    nested = [m.end() for m in PLACE.finditer(message[: found.start()])]
    if not nested:
        return None
    near = CLASS_BEFORE.search(message, nested[-1], found.start())
    near = near or CLASS_AFTER.search(message, found.end())
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


def _where(message: str) -> str:
    return ".".join(PLACE.findall(message))


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
