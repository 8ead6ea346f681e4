"""Errors that the user can mend. This module imports nothing heavy."""

import difflib
from collections.abc import Collection

NEAREST = 3


class InputError(ValueError):
    """Something that the user gave cannot be used; one line says what, where, and the repair."""


class TooLargeError(InputError):
    """There is too little memory."""


def suggest(name: str, known: Collection[str], *, listing: str = "") -> str:
    """Return a question with the nearest of the known names, and where all of them are listed.

    Args:
        name: what the user gave.
        known: names that would have been understood.
        listing: command that prints them all.
    """
    near = difflib.get_close_matches(name, sorted(known), n=NEAREST, cutoff=0)
    if not near:
        return ""
    others = f"next: {', '.join(map(repr, near[1:]))}" if len(near) > 1 else ""
    notes = "; ".join(filter(None, (others, listing and f"all: {listing}")))
    return f"did you mean {near[0]!r}?" + (f" ({notes})" if notes else "")
