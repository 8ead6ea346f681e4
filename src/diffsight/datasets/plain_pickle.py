"""Read pickles of plain data safely.

No code in the file is run. No memory is reserved only because a length in the file claims it.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from diffsight.errors import InputError

MAX_BYTES = 2**28  # ten times the largest list of references
MAX_STACK = 10_000  # values on the stack; pickle writes at most 1000 before it makes a list or dict
MAX_NESTING = 20
# allowed opcodes; GLOBAL and STACK_GLOBAL call ``find_class``, which raises an error
_PLAIN = (
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 "
    "BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "BINUNICODE SHORT_BINUNICODE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT "
    "SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 MEMOIZE PUT BINPUT "
    "LONG_BINPUT GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL"
)
Handler = Callable[[Any], None]


def load_plain(path: Path) -> Any:
    """Return the lists, dicts, tuples, numbers and texts in a pickle of any protocol.

    Raises:
        InputError: if the file is too large or nested too deeply, or contains anything but plain
            data. The message lacks the path, which the caller adds.
        Exception: of any type, if the file is damaged.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(
            f"has {size:,} bytes, more than a list of references: do not trust this file"
        )
    with path.open("rb") as file:
        return _Plain(file, encoding="latin1").load()


def _limited(handler: Handler) -> Handler:
    """Return an opcode handler that first checks the nesting and the size of the stack."""

    def call(machine: Any) -> None:
        if len(machine.metastack) > MAX_NESTING or len(machine.stack) > MAX_STACK:
            raise InputError(
                "is nested too deeply for a list of references: do not trust this file"
            )
        handler(machine)

    return call


def _refuse(machine: Any) -> None:
    """Raise an error for an opcode that plain data does not need."""
    raise InputError("contains more than lists, dicts, numbers and texts: do not trust this file")


# the Python class: the one in C reserves as much memory as a length in the file claims
_Base: Any = vars(pickle)["_Unpickler"]
_ALLOWED = {getattr(pickle, name)[0] for name in _PLAIN.split()}


class _Plain(_Base):
    """Unpickler that accepts only plain data."""

    dispatch: ClassVar[dict[int, Handler]] = {
        code: _limited(handler) if code in _ALLOWED else _refuse
        for code, handler in _Base.dispatch.items()
    }

    def find_class(self, module: str, name: str) -> Any:
        """Raise an error instead of importing a class or function."""
        raise InputError(
            f"names {module}.{name}, but a list of references is plain data: do not trust this file"
        )
