"""The type checker of the tests: beartype, which is made to accept the annotation ``Self``."""

from collections.abc import Callable
from typing import Any, Self, get_args

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with checked arguments.

    jaxtyping decorates one function at a time, where beartype does not know which class ``Self``
    is; such annotations are not checked.
    """
    hints = function.__annotations__
    function.__annotations__ = {n: Any if _names_self(h) else h for n, h in hints.items()}
    return beartype(function)


def _names_self(hint: Any) -> bool:
    return hint is Self or any(map(_names_self, get_args(hint)))
