"""Pickles of plain data, read without running or reserving what they name."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from diffsight.errors import InputError

MOST_BYTES = 2**28  # ten times the largest list of references
MOST_STACKED = 10_000  # values that wait for their list or dict; pickle writes 1000 at a time
DEEPEST = 20
# opcodes; those that name something are refused with its name
_PLAIN = (
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 "
    "BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "BINUNICODE SHORT_BINUNICODE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT "
    "SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 MEMOIZE PUT BINPUT "
    "LONG_BINPUT GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL"
)
Handler = Callable[[Any], None]


def load_plain(path: Path) -> Any:
    """Return the lists, dicts, tuples, numbers and texts of a pickle of any protocol.

    Raises:
        InputError: if it is too large, too deep, or names or holds anything else.
        Exception: of any kind, if it is damaged.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"has {size:,} bytes, more than a list of references: do not trust it")
    with path.open("rb") as file:
        return _Plain(file, encoding="latin1").load()


def _limited(handler: Handler) -> Handler:
    """Return a handler of an opcode that looks first at what is waiting."""

    def call(machine: Any) -> None:
        if len(machine.metastack) > DEEPEST or len(machine.stack) > MOST_STACKED:
            raise InputError("is nested too deeply for a list of references: do not trust it")
        handler(machine)

    return call


def _refuse(machine: Any) -> None:
    raise InputError("holds more than plain data: do not trust this file")


# the one in C reserves as much as a key of its memo or a length says
_Base: Any = vars(pickle)["_Unpickler"]
_ALLOWED = {getattr(pickle, name)[0] for name in _PLAIN.split()}


class _Plain(_Base):
    """Unpickler of plain data."""

    dispatch: ClassVar[dict[int, Handler]] = {
        code: _limited(handler) if code in _ALLOWED else _refuse
        for code, handler in _Base.dispatch.items()
    }

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(
            f"names {module}.{name}, but a list of references is plain data: do not trust this file"
        )
