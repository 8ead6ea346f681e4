"""Constructor calls as data become objects; every class and key is checked before it is built.

A configuration may name classes of diffsight, and of packages that the reader trusts: a class path
is an import, and an import can run anything. What is imported must be a configurable class before
it is called; functions are never called.
"""

import collections.abc
import contextlib
import dataclasses
import difflib
import importlib
import inspect
import sys
import typing
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, get_loader
from torch import nn
from torch.overrides import TorchFunctionMode
from yaml import YAMLError

from diffsight.config import Configurable, Plain
from diffsight.errors import InputError
from diffsight.model import DenseModel

T = TypeVar("T")

# where short class names are looked up, cheap imports first
PARTS = (
    "tasks",
    "datasets",
    "rooms",
    "streets",
    "datasets.transforms",
    "necks",
    "heads",
    "prompts",
    "methods",
    "backbones",
)


def build(config: Mapping[str, Any], *, trusted: Sequence[str] = ()) -> DenseModel:
    """Return the model that ``{"task": ..., "method": ...}`` describes, with random weights.

    Args:
        config: constructor calls as ``class_path`` / ``init_args``.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: one line that names the key, and the nearest one that exists.
    """
    arguments = {name: config[name] for name in config if name in ("task", "method")}
    path = f"{DenseModel.__module__}.{DenseModel.__qualname__}"
    call = {"class_path": path, "init_args": arguments}
    return construct(DenseModel, call, trusted=trusted)


def construct(kind: type[T], config: Any, *, where: str = "", trusted: Sequence[str] = ()) -> T:
    """Return the object of class ``kind`` that a constructor call as data describes.

    Args:
        kind: a configurable class or base class.
        config: ``class_path`` / ``init_args``, or a class name alone; class names of diffsight may
            be short.
        where: key of ``config`` in its file, for messages.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: as ``build``.
    """
    config = {"class_path": config} if isinstance(config, str) else config
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


def check(config: Any, *, where: str = "", trusted: Sequence[str] = ()) -> Any:
    """Return ``config`` with every class path written out, once all classes and keys are valid.

    Raises:
        InputError: for a class that does not exist or may not be named, an unknown key, or a string
            where an object belongs (which would be imported).
    """
    return _Checker(tuple(trusted)).value(config, where)


def check_call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    options: Collection[str] = (),
    trusted: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the arguments of a recipe as ``check`` does; a class name may stand for its call.

    Args:
        function: whose signature says which arguments are objects.
        arguments: of the recipe; some may be missing.
        options: names of the function's ``**options``, which are plain values.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: as ``check``.
    """
    plain = {name: value for name, value in arguments.items() if name in options}
    others = {name: value for name, value in arguments.items() if name not in options}
    checker = _Checker(tuple(trusted), accepts_names=True)
    return {**checker.arguments(function, others, "", options), **checker.value(plain, "")}


def resolve_class(name: str, *, where: str = "", trusted: Sequence[str] = ()) -> type:
    """Return the configurable class of a full path, or of a short name that diffsight exports.

    Nothing is imported for a name that is refused.

    Args:
        name: such as ``VPD`` or ``my_package.MyMethod``.
        where: key of the name in its file, for messages.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: if there is none (naming the nearest), or it may not be named.
    """
    module, _, attribute = name.rpartition(".")
    at = f"{where}: " if where else ""
    if not module:
        known: dict[str, type] = {}
        for part in PARTS:
            known |= _exported(part)
            if name in known:
                return known[name]
        # of layers above this one, once they are imported: optimisers, schedules, stages
        known = _loaded(Configurable) | known
        if name in known:
            return known[name]
        raise InputError(f"{at}there is no class {name!r}{nearest(name, known)}")
    if any(step.startswith("_") for step in name.split(".")):
        raise InputError(f"{at}class {name!r} is refused: part of its name is private")
    if not name.startswith(tuple(f"{one}." for one in ("diffsight", *trusted))):
        package = module.partition(".")[0]
        raise InputError(
            f"{at}class {name!r} is refused, because importing it could run any code: add "
            f"--trust {package} (in Python trusted=[{package!r}]) if you trust that package"
        )
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"{at}{module} cannot be imported ({error})") from None
        found = None
    if found is None:
        beside = _configurable(vars(sys.modules[module])) if module in sys.modules else ()
        raise InputError(f"{at}there is no class {name!r}{nearest(attribute, beside)}")
    if not (isinstance(found, type) and issubclass(found, Configurable)):
        raise InputError(
            f"{at}{name!r} is refused: it is not a class that is derived from one of diffsight's"
        )
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``: did you mean 'x'?`` with the closest of the known names; empty without any."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)
    return f": did you mean {close[0]!r}?" if close else ""


def read_plain(text: str, *, where: str) -> Any:
    """Return the plain value that is written as in a recipe (YAML).

    Raises:
        InputError: if it is no YAML.
    """
    try:
        return get_loader("yaml")(text)
    except YAMLError as error:
        raise InputError(f"{where}: {text!r} is no value ({_one_line(error)})") from None


def typed_value(kind: Any, value: Any, *, where: str) -> Any:
    """Return a plain value as a type says, such as a list as a tuple.

    Raises:
        InputError: for a value of another type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise InputError(f"{where}: {_one_line(error)}") from None


def without_weights(config: Plain) -> tuple[Plain, list[str]]:
    """Return ``config`` with every ``weights`` argument set to None, and those sources.

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
    """Return a context in which new parameters are not initialised: they are about to be loaded."""
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
        """Call a torch function, unless it fills a parameter (torch's protocol)."""
        kwargs = kwargs or {}
        # torch.nn.init hands its tensor on by keyword
        filled = args[0] if args else kwargs.get("tensor")
        if isinstance(filled, nn.Parameter) and func.__name__ in self._FILLS:
            return filled
        return func(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class _Checker:
    """Checks constructor calls, by the signatures of the classes that they name.

    Attributes:
        trusted: further packages whose classes may be named.
        accepts_names: whether a class name may stand where an object belongs.
    """

    trusted: tuple[str, ...]
    accepts_names: bool = False

    def value(self, config: Any, where: str) -> Any:
        """Return any value with its class paths written out."""
        if isinstance(config, Mapping) and "class_path" in config:
            return self._call(config, where)
        if isinstance(config, Mapping):
            return {key: self.value(one, _join(where, str(key))) for key, one in config.items()}
        if isinstance(config, Sequence) and not isinstance(config, str):
            return [self.value(one, f"{where}[{i}]") for i, one in enumerate(config)]
        return config

    def arguments(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        where: str,
        options: Collection[str] = (),
    ) -> dict[str, Any]:
        """Return the arguments of a call, each of which the function must have.

        ``options`` are further names, for the message about an unknown one.
        """
        parameters = inspect.signature(function).parameters
        whose = f" of {function.__name__}" if where or inspect.isclass(function) else ""
        checked = {}
        for key, value in arguments.items():
            place = _join(where, str(key))
            if key not in parameters:
                near = nearest(str(key), {*parameters, *options})
                raise InputError(f"unknown key {place!r}{whose}{near}")
            if _takes_object(parameters[key].annotation):
                value = self._object(value, place, function.__name__)
            checked[key] = self.value(value, place)
        return checked

    def _call(self, config: Mapping[str, Any], where: str) -> dict[str, Any]:
        arguments = config.get("init_args") or {}
        cls = resolve_class(str(config["class_path"]), where=where, trusted=self.trusted)
        if set(config) - {"class_path", "init_args"} or not isinstance(arguments, Mapping):
            at = where or "configuration"
            raise InputError(f"{at}: needs class_path and init_args, nothing else")
        checked = self.arguments(cls, arguments, where)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": checked}

    def _object(self, value: Any, where: str, owner: str) -> Any:
        """Return a value where an object belongs, or refuse what would be imported or called."""
        if value is None or (isinstance(value, Mapping) and "class_path" in value):
            return value
        if isinstance(value, list | tuple):
            return [self._object(one, f"{where}[{i}]", owner) for i, one in enumerate(value)]
        if isinstance(value, str) and self.accepts_names:
            return {"class_path": value}
        given = "a function" if callable(value) else repr(value)
        raise InputError(
            f"{where}: {owner} takes an object here: write class_path and init_args, not {given}"
        )


def _exported(part: str) -> dict[str, type]:
    return _configurable(vars(importlib.import_module(f"diffsight.{part}")))


def _loaded(base: type) -> dict[str, type]:
    """Return the classes of diffsight below ``base`` that have been imported, by name."""
    found: dict[str, type] = {}
    for cls in base.__subclasses__():
        found |= _loaded(cls)
        if cls.__module__.startswith("diffsight.") and not inspect.isabstract(cls):
            found[cls.__name__] = cls
    return found


def _configurable(names: Mapping[str, Any]) -> dict[str, type]:
    return {
        name: value
        for name, value in names.items()
        if isinstance(value, type)
        and issubclass(value, Configurable)
        and not inspect.isabstract(value)
    }


def _takes_object(annotation: Any) -> bool:
    if typing.get_origin(annotation) is collections.abc.Callable:
        return True
    if isinstance(annotation, type):
        is_builder = getattr(annotation, "_is_protocol", False)
        return is_builder or issubclass(annotation, Configurable)
    return any(_takes_object(part) for part in typing.get_args(annotation))


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).replace("Parser key ", "")
