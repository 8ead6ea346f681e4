"""Errors that the user can mend. This module imports nothing heavy."""


class InputError(ValueError):
    """Something that the user gave cannot be used; one line says what, where, and the repair."""


class TooLargeError(InputError):
    """There is too little memory."""
