"""Checks of types and shapes at every call in the tests.

jaxtyping's own decorator checks the arguments twice and binds them to the signature, which takes
longer than most functions. It is only used for shapes that name an argument, such as
``{self.num_tokens}``.
"""

import contextlib
import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, Self, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

# calls with wrong types often raise a TypeError in use, which some readers turn into a message
TYPE_ERRORS = BeartypeConf(violation_type=TypeError)
_jaxtyped: Any = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return the decorator that jaxtyping's import hook gives to every function and class.

    Functions inside functions are not checked: they would be decorated at every call.
    """

    def decorate(target: Any) -> Any:
        if "<locals>" in target.__qualname__:
            return target
        if inspect.isfunction(target) and not inspect.isgeneratorfunction(target):
            sizes = [text for text in map(_sizes, _hints(target)) if text]
            if not any("{" in text for text in sizes):
                return _checked(target, has_sizes=bool(sizes))
        elif dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = decorate(target.__init__)
            return target
        return _jaxtyped(target, typechecker=typechecker)

    return decorate


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with checked arguments.

    jaxtyping decorates one function at a time, where beartype does not know which class ``Self``
    is; such annotations are not checked, and neither are those of names that are not imported.
    """
    original = function.__annotations__
    hints = {name: _evaluated(hint, function) for name, hint in original.items()}
    function.__annotations__ = {n: Any if _names_self(h) else h for n, h in hints.items()}
    try:
        return beartype(function, conf=TYPE_ERRORS)
    finally:
        function.__annotations__ = original  # parsers of the command line read it


def _evaluated(hint: Any, function: Callable[..., Any]) -> Any:
    """Return an annotation with objects for names in quotes; ``Any`` if a name is not imported."""
    one = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return get_type_hints(one, function.__globals__, include_extras=True)["hint"]
    except NameError:
        return Any


def _checked(function: Callable[..., Any], *, has_sizes: bool) -> Callable[..., Any]:
    """Return a function whose types and shapes are checked, unless jaxtyping is disabled."""
    checked = check(function)
    # sizes with the same name are equal in a context
    context = functools.partial(_jaxtyped, "context") if has_sizes else contextlib.nullcontext

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        with context():
            return checked(*args, **kwargs)

    return wrapped


def _hints(function: Callable[..., Any]) -> list[Any]:
    """Return the annotations of a function and their parts."""
    hints = list(function.__annotations__.values())
    for hint in hints:  # the list grows by the parts of its entries
        hints += get_args(hint)
    return hints


def _sizes(hint: Any) -> str:
    """Return the sizes of an array, such as ``3 h w``; an annotation in quotes may have some."""
    return hint if isinstance(hint, str) else getattr(hint, "dim_str", "")


def _names_self(hint: Any) -> bool:
    return hint is Self or any(map(_names_self, get_args(hint)))
