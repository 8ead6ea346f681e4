"""Constructor calls as data: an object remembers how it was made and can be saved as a recipe."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

INFINITY = ".inf"  # infinite number in plain data, as in YAML
Plain = None | bool | int | float | str | list[Any] | dict[str, Any]


class Configurable:
    """Base of every class that a recipe can name. It records the arguments of its constructor.

    The constructor's signature is the schema of the recipe. Its arguments are plain values, other
    ``Configurable`` objects, or builders (a ``Configurable`` class, or ``functools.partial`` of
    one). The arguments of a dataclass are its fields.

    Attributes:
        unrecorded: names of arguments that are not part of the configuration.
    """

    _arguments: Mapping[str, Any] = MappingProxyType({})  # for classes without a constructor
    unrecorded: frozenset[str] = frozenset()

    def _restate(self, arguments: Mapping[str, Any]) -> None:
        """Replace recorded arguments by their resolved values (such as the list behind a name)."""
        object.__setattr__(self, "_arguments", {**self._arguments, **arguments})

    def __init_subclass__(cls) -> None:
        """Wrap the constructor of every subclass that defines one."""
        super().__init_subclass__()
        if "__init__" in cls.__dict__:
            cls.__init__ = _recorded(cls.__init__)


def _recorded(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is wrapper:
            bound = signature.bind(self, *args, **kwargs)
            arguments = dict(list(bound.arguments.items())[1:])
            object.__setattr__(self, "_arguments", arguments)
        init(self, *args, **kwargs)

    return wrapper


def to_config(value: Any) -> Plain:
    """Return a value as plain data for a recipe.

    A ``Configurable`` object, class or partial becomes its constructor call, ``{"class_path": ...,
    "init_args": ...}``, with all defaults written out. An infinite number becomes its text in YAML,
    which is read as a number again, because JSON has no infinity.

    Raises:
        TypeError: if a part of the value is neither plain data nor a ``Configurable``.
    """
    if isinstance(value, Configurable):
        return _call(type(value), _arguments_of(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_config(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, type) and issubclass(value, Configurable):
        return _call(value, {})
    if isinstance(value, functools.partial) and (cls := class_of(value)) is not None:
        return _call(cls, value.keywords)
    if isinstance(value, float) and math.isinf(value):
        return INFINITY if value > 0 else f"-{INFINITY}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): to_config(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [to_config(v) for v in value]
    raise TypeError(
        f"{value!r} cannot be written into a recipe: it is neither a plain value nor a Configurable"
    )


def _arguments_of(value: Configurable) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value._arguments


def _call(cls: type[Configurable], arguments: Mapping[str, Any]) -> dict[str, Any]:
    path = f"{cls.__module__}.{cls.__qualname__}"
    # defaults are written out: a later version may have others
    parameters = inspect.signature(cls.__init__).parameters.items()
    defaults = {k: p.default for k, p in parameters if p.default is not p.empty}
    complete = defaults | dict(arguments)
    kept = {k: to_config(v) for k, v in complete.items() if k not in cls.unrecorded}
    return {"class_path": path, "init_args": kept}


def class_of(builder: Any) -> type[Configurable] | None:
    """Return the ``Configurable`` class that a builder calls; None if it calls none.

    Args:
        builder: a class, a ``functools.partial``, or an object with the class in ``func``.
    """
    candidates = (builder, getattr(builder, "func", None), *getattr(builder, "args", ()))
    classes = (c for c in candidates if isinstance(c, type) and issubclass(c, Configurable))
    return next(classes, None)
