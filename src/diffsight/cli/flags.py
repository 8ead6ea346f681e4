"""Command-line flags from signatures and docstrings, so that every option is described once.

A command is a function that returns its exit status. Its annotations give the types of the flags,
its defaults the defaults, and the entries under ``Args:`` the help texts. Keyword-only parameters
become options. Other parameters become positional arguments, which are optional if they have a
default. A parameter whose type is a dataclass becomes a group of options, one per field. The same
holds for a ``partial`` of a dataclass; the command adds the missing fields before it creates the
object. Command lines under ``Example:``, each on one line, end the help.

    int, float, str, Path      one value
    Literal["a", "b"]          one of these
    int | Literal["a"]         a number, or one of these
    bool, bool | None          ``--name``; ``--name`` and ``--no-name``
    tuple[T, ...]              values separated by commas
    Sequence[T]                several values separated by spaces
    Annotated[T, Flag(...)]    a type with further properties of the flag

An option with several values may be given several times; an option with one value may not.
"""

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from diffsight.errors import InputError, suggest

METAVARS = {int: "N", float: "FLOAT", Path: "PATH"}
LISTS = {str: "A,B,...", float: "S,S,...", int: "N,N,..."}
SECTION = r"\n\n(?=\w+:\n)"  # separates the sections of a docstring
EXAMPLE = "example: "
Parameter = inspect.Parameter
Function = Callable[..., int]


@dataclasses.dataclass(frozen=True)
class Flag:
    """Properties of a flag that its type does not express.

    Attributes:
        metavar: name of the value, or names of several values, in the help.
        repeatable: whether the flag is given once per value, as in ``--trust a --trust b``.
    """

    metavar: str | tuple[str, ...] | None = None
    repeatable: bool = False


class CommonFlags:
    """Help texts of flags that a command does not describe itself.

    Attributes:
        backbone: frozen backbone: tiny (the model that is installed with diffsight), a folder, one
            checkpoint file in Stable Diffusion's original format, or an id on the Hugging Face hub.
        device: device to run on: cpu, cuda, cuda:1 ... (default: the GPU if there is one).
        dtype: data type of the computation; 16-bit types use mixed precision.
        images: image files, folders of images, or quoted patterns such as 'photos/*.jpg'.
        json: print JSON instead of text.
        model: saved model: its folder or .safetensors file, the output folder of `diffsight fit`,
            or an id on the Hugging Face hub.
        recipe: recipe: a YAML file, or a name that `diffsight recipes` lists.
        trust: package outside diffsight whose classes recipes and saved models may use. Its code is
            run. Repeat the option for several packages (default: none).
    """


@dataclasses.dataclass(frozen=True)
class Command:
    """A function whose arguments are read from a command line.

    Attributes:
        name: name of the command, as it is typed after ``diffsight``.
        function: function that runs the command and returns its exit status.
        exclusive: names of flags that exclude each other.
        is_required: whether one of the flags in ``exclusive`` must be given.
        excluded: names of dataclass fields that do not become flags.
        claim: function that returns a context manager for ``out``; it keeps other runs from
            writing there while this one runs.
    """

    name: str
    function: Function
    exclusive: Sequence[str]
    is_required: bool
    excluded: Sequence[str]
    claim: Callable[[Path], AbstractContextManager[None]]

    def __call__(self, argv: Sequence[str]) -> int:
        """Run the command and return its exit status."""
        values = vars(self.parser().parse_args(argv))
        values |= {key: group.pop_object(values) for key, group in self._groups().items()}
        with self.claim(values.get("out", Path())):
            return self.function(**values)

    def parser(self) -> argparse.ArgumentParser:
        """Return a parser of the command's flags."""
        parameters, texts = inspect.signature(self.function).parameters, texts_of(self.function)
        groups = self._groups()
        parser = OneLineParser(
            prog=f"diffsight {self.name}",
            description=_summary(inspect.getdoc(self.function) or ""),
            epilog=example_of(self.function),
            formatter_class=_HelpFormatter,
        )
        containers: dict[str, argparse._ActionsContainer] = {}
        if self.exclusive:
            group = parser.add_mutually_exclusive_group(required=self.is_required)
            containers = dict.fromkeys(self.exclusive, group)
        for key, parameter in parameters.items():
            if key in groups:
                part = parser.add_argument_group(key, texts[key])
                for field in groups[key].fields.values():
                    container = containers.get(field.name, part)
                    add_flag(container, field, texts_of(groups[key].kind))
            else:
                add_flag(containers.get(key, parser), parameter, texts)
        return parser

    def _groups(self) -> dict[str, "_Group"]:
        return _groups(inspect.signature(self.function).parameters, self.excluded)


class _Store(argparse._StoreAction):
    """Store a value that is given once, or add to a list of values that all have one meaning."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Store the values.

        Raises:
            InputError: if there is an earlier value that is not a list.
        """
        if parser.is_first(self):
            setattr(namespace, self.dest, values)
            return
        earlier = getattr(namespace, self.dest)
        # names of several values, such as IMAGES LABELS, mean that they differ; so do the numbers
        # of a size
        is_one = isinstance(self.metavar, tuple) or (self.nargs and self.type in (int, float))
        if is_one or not isinstance(values, list | tuple):
            raise _repetition_error(self.option_strings[0], earlier, values)
        setattr(namespace, self.dest, type(values)([*earlier, *values]))


class _Switch(argparse.BooleanOptionalAction):
    """Store whether ``--name`` or ``--no-name`` is given; both together are refused."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Store the value.

        Raises:
            InputError: if the opposite is given too.
        """
        earlier = getattr(namespace, self.dest)
        super().__call__(parser, namespace, values, option_string)
        is_first = not isinstance(parser, OneLineParser) or parser.is_first(self)
        if not is_first and getattr(namespace, self.dest) != earlier:
            name, opposite = self.option_strings
            raise InputError(f"{name} and {opposite} exclude each other: give one of them")


def _repetition_error(option: str, first: Any, second: Any) -> InputError:
    """Return the error to raise for an option that is given twice."""
    texts = [
        " ".join(map(str, one)) if isinstance(one, list | tuple) else str(one)
        for one in (first, second)
    ]
    return InputError(f"{option} is given twice: {texts[0]} and {texts[1]}: leave one of them out")


class OneLineParser(argparse.ArgumentParser):
    """The parser of argparse, whose errors are an ``InputError`` of one line.

    An option for one value may be given once. Lists of an option that is given twice are joined.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for action in (None, "store"):
            self.register("action", action, _Store)
        self._given: set[str] = set()

    def is_first(self, action: argparse.Action) -> bool:
        """Return whether an option has not been read before on this command line."""
        if not action.option_strings:
            return True
        is_new = action.dest not in self._given
        self._given.add(action.dest)
        return is_new

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the values of the flags.

        Raises:
            InputError: for an unknown flag (suggesting a similar one), a missing flag, a wrong
                value, or a flag that is given twice.
        """
        self._given.clear()
        flags = (flag for action in self._actions for flag in action.option_strings)
        options = [flag for flag in flags if flag.startswith("--")]
        for word in args:
            name = word.partition("=")[0]
            if name == "--":
                break
            # an unambiguous beginning of a flag is allowed
            if name.startswith("--") and not any(option.startswith(name) for option in options):
                raise InputError(f"unknown option {name}: {suggest(name, options)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise the message of argparse with the command that prints all flags."""
        raise InputError(f"{message}: see `{self.prog} --help`")


def command(
    name: str,
    *,
    exclusive: Sequence[str] = (),
    is_required: bool = False,
    excluded: Sequence[str] = (),
    claim: Callable[[Path], AbstractContextManager[None]] = lambda out: nullcontext(),
) -> Callable[[Function], Command]:
    """Return a decorator that turns a function into a ``Command`` with these attributes."""

    def decorate(function: Function) -> Command:
        return Command(name, function, exclusive, is_required, excluded, claim)

    return decorate


@dataclasses.dataclass
class _Group:
    """The flags of a parameter that is a dataclass, or a ``partial`` of one."""

    kind: Callable[..., Any]
    fields: Mapping[str, Parameter]
    is_partial: bool

    def pop_object(self, values: dict[str, Any]) -> Any:
        """Return the object, or the ``partial``; remove its fields from ``values``."""
        own = {name: values.pop(name) for name in self.fields}
        return partial(self.kind, **own) if self.is_partial else self.kind(**own)


def _groups(parameters: Mapping[str, Parameter], excluded: Sequence[str]) -> dict[str, _Group]:
    """Return the groups of flags by parameter.

    If a ``partial`` and another parameter have a flag of the same name, the other one keeps it.
    """
    groups: dict[str, _Group] = {}
    for key, parameter in parameters.items():
        is_partial = get_origin(parameter.annotation) is partial
        kind = get_args(parameter.annotation)[0] if is_partial else parameter.annotation
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
            fields = inspect.signature(kind).parameters.values()
            # all fields become options, positional ones too
            flags = {one.name: one.replace(kind=Parameter.KEYWORD_ONLY) for one in fields}
            groups[key] = _Group(kind, flags, is_partial)
    taken = {*parameters, *excluded}
    taken.update(*(group.fields for group in groups.values() if not group.is_partial))
    for group in groups.values():
        if group.is_partial:
            fields = group.fields.items()
            group.fields = {name: field for name, field in fields if name not in taken}
    return groups


def add_flag(
    group: "argparse._ActionsContainer", parameter: Parameter, texts: Mapping[str, str]
) -> None:
    """Add the option, or the positional argument, of a parameter or dataclass field.

    Args:
        group: parser, or group of options.
        parameter: parameter with its annotation and default.
        texts: help texts by parameter name; missing ones come from ``CommonFlags``.
    """
    kinds, flag = _members(parameter.annotation)
    name, is_required = parameter.name, parameter.default is Parameter.empty
    is_positional = parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    options = _parsing(kinds, repeatable=flag.repeatable)
    if flag.metavar is not None or is_positional:
        options["metavar"] = flag.metavar
    text = texts[name] if name in texts else texts_of(CommonFlags)[name]
    options["help"] = _help(text, parameter.default)
    if is_positional:
        optional = {} if is_required else {"nargs": "?", "default": parameter.default}
        group.add_argument(name, **(options | optional))
        return
    if not is_required:
        # argparse appends to a copy of the list
        options["default"] = list(parameter.default) if flag.repeatable else parameter.default
    group.add_argument(f"--{name.replace('_', '-')}", dest=name, required=is_required, **options)


def _members(annotation: Any) -> tuple[list[Any], Flag]:
    """Return the types of a union, and the ``Flag`` in its annotation."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, flag = get_args(annotation)
        return _members(kind)[0], flag
    if origin not in (Union, UnionType):
        return [annotation], Flag()
    parts = [_members(member) for member in get_args(annotation)]
    flags = [flag for _, flag in parts if flag != Flag()]
    return [kind for kinds, _ in parts for kind in kinds], flags[0] if flags else Flag()


def _parsing(kinds: Sequence[Any], *, repeatable: bool = False) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` that define how strings become a value."""
    kind, origin, inner = kinds[0], get_origin(kinds[0]), get_args(kinds[0])
    if kind is bool:
        can_be_none = type(None) in kinds
        return {"action": _Switch if can_be_none else "store_true"}
    if origin is Literal:
        return {"choices": inner}
    if origin is tuple:
        return {"type": _comma_separated(inner[0]), "metavar": LISTS[inner[0]]}
    if origin is Sequence:
        several = {"action": "append"} if repeatable else {"nargs": "+"}
        members, flag = _members(inner[0])
        options = _parsing(members) | several
        return options | ({"metavar": flag.metavar} if flag.metavar else {})
    choices = [name for one in kinds if get_origin(one) is Literal for name in get_args(one)]
    if choices:
        metavar = "|".join((METAVARS[kind], *choices))
        return {"type": _number_or_choice(choices, kind), "metavar": metavar}
    metavar = "DIR|ID" if {str, Path} <= set(kinds) else METAVARS.get(kind)
    parse = float if float in kinds else kind
    return {"type": None if parse is str else parse, "metavar": metavar}


def _comma_separated(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def comma_separated_list(text: str) -> tuple[Any, ...]:  # argparse prints this name in errors
        return tuple(kind(part.strip()) for part in text.split(","))

    return comma_separated_list


def _number_or_choice(choices: Sequence[str], kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def size(text: str) -> Any:
        return text if text in choices else kind(text)

    return size


def _summary(docstring: str) -> str:
    """Return the paragraphs of a docstring before its first section."""
    return _plain(re.split(SECTION, docstring)[0])


def example_of(function: Any) -> str:
    """Return the command lines under ``Example:`` in a docstring, or "", as the end of a help."""
    sections = re.split(SECTION, inspect.getdoc(function) or "")
    examples = [one.splitlines()[1:] for one in sections if one.startswith("Example:\n")]
    lines = [line.strip() for lines in examples for line in lines]
    return EXAMPLE + f"\n{' ' * len(EXAMPLE)}".join(lines) if lines else ""


class _HelpFormatter(argparse.HelpFormatter):
    """The help formatter of argparse, without line breaks in example commands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


def texts_of(source: Any) -> dict[str, str]:
    """Return the descriptions of arguments in a docstring and in those of base classes, by name."""
    texts: dict[str, str] = {}
    for owner in reversed(getattr(source, "__mro__", (source,))):
        docstring = inspect.cleandoc(owner.__doc__ or "")
        entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", docstring, re.MULTILINE)
        texts |= {name: _plain(text).rstrip(".") for name, text in entries}
    return texts


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _help(text: str, default: Any) -> str:
    """Return a help text with the default appended, unless the text already names it."""
    text = text.replace("%", "%%")
    is_unset = any(default is one for one in (None, False, Parameter.empty))
    if is_unset or default in ("", ()) or "default:" in text:
        return text
    parts = default if isinstance(default, tuple) else (default,)
    shown = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
    return f"{text} (default: {shown})"
