"""Constructor calls as data become objects; every class and key is checked before it is built.

A downloaded configuration may name classes of diffsight only: a class path is an import, and an
import can run anything.
"""

import contextlib
import difflib
import importlib
import inspect
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from torch import nn
from torch.overrides import TorchFunctionMode

from diffsight.config import Configurable, Plain
from diffsight.errors import InputError
from diffsight.model import DenseModel

T = TypeVar("T")

# where short class names are looked up, cheap imports first
PARTS = (
    "tasks",
    "datasets",
    "rooms",
    "datasets.transforms",
    "necks",
    "heads",
    "prompts",
    "methods",
    "backbones",
)
TRUSTED = ("diffsight",)


def build(config: Mapping[str, Any], *, trusted: Sequence[str] = TRUSTED) -> DenseModel:
    """The model that ``{"task": ..., "method": ...}`` describes, with random weights.

    Args:
        config: constructor calls as ``class_path`` / ``init_args``.
        trusted: packages whose classes may be named.

    Raises:
        InputError: one line that names the key, and the nearest one that exists.
    """
    arguments = {name: config[name] for name in config if name in ("task", "method")}
    path = f"{DenseModel.__module__}.{DenseModel.__qualname__}"
    call = {"class_path": path, "init_args": arguments}
    return construct(DenseModel, call, trusted=trusted)


def construct(
    kind: type[T], config: Any, *, where: str = "", trusted: Sequence[str] = TRUSTED
) -> T:
    """The object of class ``kind`` that a constructor call as data describes.

    Args:
        kind: a configurable class or base class.
        config: ``class_path`` / ``init_args``; class names of diffsight may be short.
        where: key of ``config`` in its file, for messages.
        trusted: packages whose classes may be named.

    Raises:
        InputError: as ``build``.
    """
    checked = check(config, where=where, trusted=trusted)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"value": checked})).value
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        # jsonargparse wraps what a constructor raises, and a wrong type in several lines
        for cause in _causes(error):
            if isinstance(cause, InputError):
                raise cause from None
        if not isinstance(error, ValueError | TypeError | ArgumentError):
            raise
        raise InputError(f"{where or kind.__name__}: {_one_line(error)}") from None


def check(config: Any, *, where: str = "", trusted: Sequence[str] = TRUSTED) -> Any:
    """``config`` with every class path written out, once all classes and keys are known to exist.

    Raises:
        InputError: for a class that does not exist or may not be named, an unknown key, or a string
            where an object belongs (which would be imported).
    """
    if isinstance(config, Mapping) and "class_path" in config:
        return _check_call(config, where, trusted)
    if isinstance(config, Mapping):
        return {k: check(v, where=_join(where, str(k)), trusted=trusted) for k, v in config.items()}
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [check(v, where=f"{where}[{i}]", trusted=trusted) for i, v in enumerate(config)]
    return config


def resolve_class(name: str, *, where: str = "", trusted: Sequence[str] = TRUSTED) -> type:
    """The configurable class of a full path, or of a short name that diffsight's parts export.

    Raises:
        InputError: if there is none; names the nearest.
    """
    module, _, attribute = name.rpartition(".")
    at = f"{where}: " if where else ""
    if not module:
        known: dict[str, type] = {}
        for part in PARTS:
            known |= _exported(part)
            if name in known:
                return known[name]
        raise InputError(f"{at}there is no class {name!r}{nearest(name, known)}")
    package = module.partition(".")[0]
    if package not in trusted or any(step.startswith("_") for step in name.split(".")):
        raise InputError(
            f"{at}class {name!r} is refused: a model's configuration may name classes of "
            f"{', '.join(trusted)} only, because importing others could run any code"
        )
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError:
        found = None
    if not (isinstance(found, type) and issubclass(found, Configurable)):
        raise InputError(f"{at}there is no class {name!r} in this version of diffsight")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """``: did you mean 'x'?`` with the closest of the known names; empty if none is known."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)
    return f": did you mean {close[0]!r}?" if close else ""


def without_weights(config: Plain) -> tuple[Plain, list[str]]:
    """``config`` with every ``weights`` argument set to None, and the sources that stood there.

    A saved model brings its own weights: nothing is downloaded to be overwritten.
    """
    sources: list[str] = []

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("weights"), str):
                sources.append(value["weights"])
                value = value | {"weights": None}
            return {name: strip(item) for name, item in value.items()}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(config), sources


@contextlib.contextmanager
def uninitialised() -> Iterator[None]:
    """Parameters that are made inside keep whatever is in memory: they are about to be loaded."""
    with _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Skips the functions that fill parameters; buffers are computed as ever."""

    _FILLS = frozenset(
        {
            *("constant_", "eye_", "ones_", "zeros_", "zero_", "fill_", "dirac_", "orthogonal_"),
            *("normal_", "uniform_", "trunc_normal_", "sparse_"),
            *("kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"),
        }
    )

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Torch's protocol: every call of a torch function inside the context comes here."""
        kwargs = kwargs or {}
        # torch.nn.init hands its tensor on by keyword
        filled = args[0] if args else kwargs.get("tensor")
        if isinstance(filled, nn.Parameter) and func.__name__ in self._FILLS:
            return filled
        return func(*args, **kwargs)


def _check_call(config: Mapping[str, Any], where: str, trusted: Sequence[str]) -> dict[str, Any]:
    arguments = config.get("init_args") or {}
    cls = resolve_class(str(config["class_path"]), where=where, trusted=trusted)
    if set(config) - {"class_path", "init_args"} or not isinstance(arguments, Mapping):
        at = where or "configuration"
        raise InputError(f"{at}: needs class_path and init_args, nothing else")
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    checked = {}
    for key, value in arguments.items():
        place = _join(where, key)
        if key not in parameters:
            raise InputError(f"unknown key {place!r} of {cls.__name__}{nearest(key, parameters)}")
        if _takes_object(parameters[key].annotation) and _holds_text(value):
            raise InputError(
                f"{place}: {cls.__name__} takes an object here: write class_path and init_args, "
                f"not {value!r}"
            )
        checked[key] = check(value, where=place, trusted=trusted)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": checked}


def _exported(part: str) -> dict[str, type]:
    module = importlib.import_module(f"diffsight.{part}")
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Configurable)
        and not inspect.isabstract(value)
    }


def _takes_object(annotation: Any) -> bool:
    if isinstance(annotation, type):
        is_builder = getattr(annotation, "_is_protocol", False)
        return is_builder or issubclass(annotation, Configurable)
    return any(_takes_object(part) for part in typing.get_args(annotation))


def _holds_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, list | tuple) and any(_holds_text(item) for item in value)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).replace("Parser key ", "")
