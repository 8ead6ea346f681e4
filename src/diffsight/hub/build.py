"""Build objects from constructor calls that are stored as data.

Every class and key is checked first. A configuration may name classes of diffsight and of packages
that the user trusts. Nothing else is imported, because an import can run any code. An imported
object is called only if it is a configurable class; functions are never called.
"""

import collections.abc
import contextlib
import dataclasses
import inspect
import typing
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, get_loader
from torch import nn
from torch.overrides import TorchFunctionMode
from yaml import YAMLError

from diffsight.config import Configurable, Plain
from diffsight.errors import InputError, suggest
from diffsight.hub.classes import resolve_class
from diffsight.model import DenseModel

T = TypeVar("T")


def build(config: Mapping[str, Any], *, trusted: Sequence[str] = ()) -> DenseModel:
    """Return the model that ``{"task": ..., "method": ...}`` describes, with random weights.

    Args:
        config: constructor calls of task and method as ``class_path`` / ``init_args``.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: if a class is unknown or refused, a key is unknown, or a value is invalid; the
            message has one line, which names the key and suggests the nearest name.
    """
    arguments = {name: config[name] for name in config if name in ("task", "method")}
    path = f"{DenseModel.__module__}.{DenseModel.__qualname__}"
    call = {"class_path": path, "init_args": arguments}
    return construct(DenseModel, call, trusted=trusted)


def construct(kind: type[T], config: Any, *, key: str = "", trusted: Sequence[str] = ()) -> T:
    """Return the object of class ``kind`` that a constructor call as data describes.

    Args:
        kind: a configurable class or base class.
        config: mapping with ``class_path`` and ``init_args``, or a class name alone. Classes that
            diffsight exports may have their short names.
        key: key of ``config`` in its file, for messages.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: as ``build``.
    """
    config = {"class_path": config} if isinstance(config, str) else config
    checked = check(config, key=key, trusted=trusted)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"value": checked})).value
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        # jsonargparse wraps errors of constructors, and reports a wrong type in several lines
        for cause in _causes(error):
            if isinstance(cause, InputError):
                raise cause from None
        if not isinstance(error, ValueError | TypeError | ArgumentError):
            raise
        raise InputError(f"{key or kind.__name__}: {_one_line(error)}") from None


def check(config: Any, *, key: str = "", trusted: Sequence[str] = ()) -> Any:
    """Return a checked configuration, with full class paths in place of short names.

    Args:
        config: plain data, which may contain constructor calls.
        key: key of ``config`` in its file, for messages.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: if a class does not exist or may not be named, a key is unknown, or an object is
            given as a string (jsonargparse would import it).
    """
    return _Checker(tuple(trusted)).value(config, key)


def check_call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    options: Collection[str] = (),
    trusted: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the checked arguments of a recipe.

    An object may be given as its class name alone, without arguments.

    Args:
        function: function that takes the arguments; its annotations show which are objects.
        arguments: arguments in the recipe; some may be missing.
        options: names of the function's ``**options``, which are plain values.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: as ``check``.
    """
    plain = {name: value for name, value in arguments.items() if name in options}
    others = {name: value for name, value in arguments.items() if name not in options}
    checker = _Checker(tuple(trusted), accepts_names=True)
    return {**checker.arguments(function, others, "", options), **checker.value(plain, "")}


def read_plain(text: str, *, source: str) -> Any:
    """Return the plain value that a text means in YAML, as in a recipe.

    Args:
        text: text of the value.
        source: option that the value belongs to, for messages.

    Raises:
        InputError: if the text is not valid YAML.
    """
    try:
        return get_loader("yaml")(text)
    except YAMLError as error:
        raise InputError(
            f"{source}: {text!r} is not valid YAML ({_one_line(error)}): correct it"
        ) from None


def typed_value(kind: Any, value: Any, *, source: str) -> Any:
    """Return a plain value converted to a type, for example a list to a tuple.

    Args:
        kind: type, such as ``tuple[int, ...] | None``.
        value: plain value.
        source: option that the value belongs to, for messages.

    Raises:
        InputError: if the value cannot be converted.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise InputError(f"{source}: {_one_line(error)}") from None


def without_weights(config: Plain) -> tuple[Plain, list[str]]:
    """Return a configuration whose ``weights`` arguments are None, and the removed arguments.

    A saved model has its own weights, so the initial ones need not be downloaded.

    Args:
        config: configuration, which may contain constructor calls with ``weights``.
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
    """Return a context in which new parameters are not initialised, because they are loaded."""
    with _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Skip the functions that fill parameters; buffers are computed as usual."""

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
        """Call a torch function, unless it fills a parameter."""
        kwargs = kwargs or {}
        # torch.nn.init passes its tensor as a keyword argument
        filled = args[0] if args else kwargs.get("tensor")
        if isinstance(filled, nn.Parameter) and func.__name__ in self._FILLS:
            return filled
        return func(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class _Checker:
    """Check constructor calls against the signatures of the classes that they name.

    Attributes:
        trusted: further packages whose classes may be named.
        accepts_names: whether a class name may replace the constructor call of an object.
    """

    trusted: tuple[str, ...]
    accepts_names: bool = False

    def value(self, config: Any, key: str) -> Any:
        """Return a checked value, with full class paths."""
        if isinstance(config, Mapping) and "class_path" in config:
            return self._call(config, key)
        if isinstance(config, Mapping):
            return {name: self.value(v, _join(key, str(name))) for name, v in config.items()}
        if isinstance(config, Sequence) and not isinstance(config, str):
            return [self.value(item, f"{key}[{i}]") for i, item in enumerate(config)]
        return config

    def arguments(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        key: str,
        options: Collection[str] = (),
    ) -> dict[str, Any]:
        """Return the checked arguments of a call.

        Args:
            function: function or class that is called.
            arguments: arguments by name.
            key: key of the call in its file.
            options: further names that the message about an unknown name may suggest.

        Raises:
            InputError: if the function does not have one of the arguments.
        """
        parameters = inspect.signature(function).parameters
        owner = f" of {function.__name__}" if key or inspect.isclass(function) else ""
        checked = {}
        for name, value in arguments.items():
            argument_key = _join(key, str(name))
            if name not in parameters:
                names = {*parameters, *options}
                suggestion = f": {suggest(str(name), names)}" if names else ""
                raise InputError(f"unknown key {argument_key!r}{owner}{suggestion}")
            if _takes_object(parameters[name].annotation):
                value = self._object(value, argument_key, function.__name__)
            checked[name] = self.value(value, argument_key)
        return checked

    def _call(self, config: Mapping[str, Any], key: str) -> dict[str, Any]:
        arguments = config.get("init_args") or {}
        cls = resolve_class(str(config["class_path"]), key=key, trusted=self.trusted)
        if set(config) - {"class_path", "init_args"} or not isinstance(arguments, Mapping):
            at = key or "configuration"
            raise InputError(f"{at}: write class_path and init_args, and no other keys")
        checked = self.arguments(cls, arguments, key)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": checked}

    def _object(self, value: Any, key: str, owner: str) -> Any:
        """Return the data of an object; refuse a value that would be imported or called."""
        if value is None or (isinstance(value, Mapping) and "class_path" in value):
            return value
        if isinstance(value, list | tuple):
            return [self._object(item, f"{key}[{i}]", owner) for i, item in enumerate(value)]
        if isinstance(value, str) and self.accepts_names:
            return {"class_path": value}
        refused = "a function" if callable(value) else repr(value)
        raise InputError(
            f"{key}: {owner} takes an object here: write class_path and init_args, not {refused}"
        )


def _takes_object(annotation: Any) -> bool:
    """Return whether a parameter takes an object, which a configuration must construct."""
    if typing.get_origin(annotation) is collections.abc.Callable:
        return True
    if isinstance(annotation, type):
        is_builder = getattr(annotation, "_is_protocol", False)
        return is_builder or issubclass(annotation, Configurable)
    return any(_takes_object(part) for part in typing.get_args(annotation))


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the chain of errors that caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).replace("Parser key ", "")
