"""Errors that the user can repair. This module imports nothing heavy."""

import difflib
from collections.abc import Collection

INTERRUPTED = 130  # exit status after Ctrl-C
MAX_LISTED = 30  # valid names in a message


class InputError(ValueError):
    """An input cannot be used. The message is one line: what is wrong, where, and the repair."""


class MissingExtraError(InputError):
    """An optional library is not installed. The message has the pip command."""


class TooLargeError(InputError):
    """An operation needs more memory than is available."""


def suggest(name: str, choices: Collection[str], *, listing: str = "") -> str:
    """Return the end of a message about an unknown name: similar valid names, or all of them.

    Args:
        name: the unknown name.
        choices: valid names, at least one.
        listing: command that prints all valid names; empty if there is none.
    """
    near = difflib.get_close_matches(name, sorted(choices))
    if not near and not listing and len(choices) > MAX_LISTED:
        near = difflib.get_close_matches(name, sorted(choices), n=1, cutoff=0)
    if not near:
        return f"see {listing}" if listing else f"choose from {', '.join(sorted(choices))}"
    others = f"next: {', '.join(map(repr, near[1:]))}; " if near[1:] else ""
    return f"did you mean {near[0]!r}?" + (f" ({others}all: {listing})" if listing else "")


def check_whole(name: str, value: int | None, least: int, limit: int = 2**63) -> None:
    """Refuse a whole number that is too small or too large.

    Args:
        name: name of the option, for the message.
        value: number; None is not checked.
        least: smallest number.
        limit: smallest number that is too large.

    Raises:
        InputError: if it is.
    """
    if value is not None and value < least:
        raise InputError(f"{name} {value}: give a whole number from {least} on")
    if value is not None and value >= limit:
        raise InputError(f"{name} {value}: give a smaller number")
