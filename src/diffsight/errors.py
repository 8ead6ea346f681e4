"""Errors that the user can repair. This module imports nothing heavy."""

import difflib
from collections.abc import Collection

NEAREST = 3


class InputError(ValueError):
    """An input cannot be used. The message is one line: what is wrong, where, and the repair."""


class TooLargeError(InputError):
    """An operation needs more memory than is available."""


def suggest(name: str, choices: Collection[str], *, listing: str = "") -> str:
    """Return a "did you mean" question with the names nearest to a mistyped one.

    Args:
        name: mistyped name.
        choices: valid names.
        listing: command that prints all valid names.
    """
    near = difflib.get_close_matches(name, sorted(choices), n=NEAREST, cutoff=0)
    if not near:
        return ""
    others = f"next: {', '.join(map(repr, near[1:]))}" if len(near) > 1 else ""
    notes = "; ".join(filter(None, (others, listing and f"all: {listing}")))
    return f"did you mean {near[0]!r}?" + (f" ({notes})" if notes else "")
