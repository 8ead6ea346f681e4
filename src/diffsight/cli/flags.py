"""Command-line flags from signatures and docstrings, so that an option is written down once.

A command is a function that returns its exit status. Every parameter is a flag: its annotation is
the type, its default the default, and its entry under ``Args:`` the help. Parameters that may be
given by position are words of the command line, optional ones if they have a default; keyword-only
ones are flags. A parameter whose type is a dataclass is a group of flags, one per field; so is a
``partial`` of one, which the command completes before it makes the object. Command lines under
``Example:``, each on one line, end the help.

    int, float, str, Path      one value
    Literal["a", "b"]          one of these
    int | Literal["a"]         a number, or one of these
    bool, bool | None          ``--name``; ``--name`` and ``--no-name``
    tuple[T, ...]              values with commas between them
    Sequence[T]                several words
    Annotated[T, Flag(...)]    what the annotation cannot say
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
from typing import Annotated, Any, Literal, Union, get_args, get_origin

METAVARS = {int: "N", float: "FLOAT", Path: "PATH"}
LISTS = {str: "A,B,...", float: "S,S,...", int: "N,N,..."}
SECTION = r"\n\n(?=\w+:\n)"  # what parts a docstring
EXAMPLE = "example: "
Parameter = inspect.Parameter
Function = Callable[..., int]


@dataclasses.dataclass(frozen=True)
class Flag:
    """What an annotation says about a flag besides its type.

    Attributes:
        metavar: name of the value, or of several values, in the help.
        repeat: whether every value has a flag of its own, as in ``--trust a --trust b``.
    """

    metavar: str | tuple[str, ...] | None = None
    repeat: bool = False


class CommonFlags:
    """Help of flags that mean the same in every command whose docstring does not describe them.

    Attributes:
        backbone: frozen model: the one of the package, a folder, one original file of Stable
            Diffusion, or a hub id.
        device: cpu, cuda, cuda:1 ... (default: the GPU if there is one).
        dtype: precision: that of the weights, or mixed (default: float32, no mixed precision).
        images: files, folders or quoted patterns.
        json: print JSON.
        model: saved model: a folder, a .safetensors file, the folder of a training, or a hub id.
        recipe: file, or a recipe of the package.
        trust: allow classes of this package in recipes and saved models, which runs its code;
            repeat it for several packages (default: diffsight only).
    """


@dataclasses.dataclass(frozen=True)
class Command:
    """A function with options that is called with the words of a command line.

    Attributes:
        name: as it is typed after ``diffsight``.
        function: returns the exit status.
        either: flags of which at most one can be given.
        is_required: whether one of them must be given.
        without: fields of dataclasses that are no flags.
        claim: keeps other runs away from ``out`` while the function runs.
    """

    name: str
    function: Function
    either: Sequence[str]
    is_required: bool
    without: Sequence[str]
    claim: Callable[[Path], AbstractContextManager[None]]

    def __call__(self, argv: Sequence[str]) -> int:
        """Run the command and return its exit status."""
        given = vars(self.parser().parse_args(argv))
        given |= {key: group.take(given) for key, group in self._groups().items()}
        with self.claim(given.get("out", Path())):
            return self.function(**given)

    def parser(self) -> argparse.ArgumentParser:
        """Return a parser of the flags."""
        parameters, texts = inspect.signature(self.function).parameters, texts_of(self.function)
        groups = self._groups()
        parser = argparse.ArgumentParser(
            prog=f"diffsight {self.name}",
            description=_summary(inspect.getdoc(self.function) or ""),
            epilog=example_of(self.function),
            formatter_class=_HelpFormatter,
        )
        exclusive: dict[str, argparse._ActionsContainer] = {}
        if self.either:
            group = parser.add_mutually_exclusive_group(required=self.is_required)
            exclusive = dict.fromkeys(self.either, group)
        for key, parameter in parameters.items():
            if key in groups:
                part = parser.add_argument_group(key, texts[key])
                for field in groups[key].fields.values():
                    container = exclusive.get(field.name, part)
                    add_flag(container, field, texts_of(groups[key].kind))
            else:
                add_flag(exclusive.get(key, parser), parameter, texts)
        return parser

    def _groups(self) -> dict[str, "_Group"]:
        return _groups(inspect.signature(self.function).parameters, self.without)


def command(
    name: str,
    *,
    either: Sequence[str] = (),
    is_required: bool = False,
    without: Sequence[str] = (),
    claim: Callable[[Path], AbstractContextManager[None]] = lambda out: nullcontext(),
) -> Callable[[Function], Command]:
    """Make a command of a function with options; the arguments are those of ``Command``."""

    def decorate(function: Function) -> Command:
        return Command(name, function, either, is_required, without, claim)

    return decorate


@dataclasses.dataclass
class _Group:
    """The flags of a parameter that is a dataclass, or a ``partial`` of one."""

    kind: Callable[..., Any]
    fields: Mapping[str, Parameter]
    is_partial: bool

    def take(self, given: dict[str, Any]) -> Any:
        """Return the object, or the ``partial``; its flags are taken out of those given."""
        values = {name: given.pop(name) for name in self.fields}
        return partial(self.kind, **values) if self.is_partial else self.kind(**values)


def _groups(parameters: Mapping[str, Parameter], without: Sequence[str]) -> dict[str, _Group]:
    """Return the groups; what the command completes leaves flags of the same name to the others."""
    groups: dict[str, _Group] = {}
    for key, parameter in parameters.items():
        is_partial = get_origin(parameter.annotation) is partial
        kind = get_args(parameter.annotation)[0] if is_partial else parameter.annotation
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
            fields = inspect.signature(kind).parameters.values()
            # a field is a flag, wherever it stands
            flags = {one.name: one.replace(kind=Parameter.KEYWORD_ONLY) for one in fields}
            groups[key] = _Group(kind, flags, is_partial)
    taken = {*parameters, *without}
    taken.update(*(group.fields for group in groups.values() if not group.is_partial))
    for group in groups.values():
        if group.is_partial:
            fields = group.fields.items()
            group.fields = {name: field for name, field in fields if name not in taken}
    return groups


def add_flag(
    group: "argparse._ActionsContainer", parameter: Parameter, texts: Mapping[str, str]
) -> None:
    """Add the flag of a parameter or a field, or the word of one that is given by position.

    Args:
        group: parser, or group of flags.
        parameter: with annotation and default.
        texts: help by names, besides that of ``CommonFlags``.
    """
    kinds, flag = _members(parameter.annotation)
    name, is_required = parameter.name, parameter.default is Parameter.empty
    is_word = parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    options = _parsing(kinds, repeat=flag.repeat)
    if flag.metavar is not None or is_word:
        options["metavar"] = flag.metavar
    text = texts[name] if name in texts else texts_of(CommonFlags)[name]
    options["help"] = _help(text, parameter.default)
    if is_word:
        optional = {} if is_required else {"nargs": "?", "default": parameter.default}
        group.add_argument(name, **(options | optional))
        return
    if not is_required:
        # argparse appends to a copy of the list
        options["default"] = list(parameter.default) if flag.repeat else parameter.default
    group.add_argument(f"--{name.replace('_', '-')}", dest=name, required=is_required, **options)


def _members(annotation: Any) -> tuple[list[Any], Flag]:
    """Return the types of a union, and the flag with which one of them is annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, flag = get_args(annotation)
        return _members(kind)[0], flag
    if origin not in (Union, UnionType):
        return [annotation], Flag()
    parts = [_members(member) for member in get_args(annotation)]
    flags = [flag for _, flag in parts if flag != Flag()]
    return [kind for kinds, _ in parts for kind in kinds], flags[0] if flags else Flag()


def _parsing(kinds: Sequence[Any], *, repeat: bool = False) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` that say how words become a value."""
    kind, origin, inner = kinds[0], get_origin(kinds[0]), get_args(kinds[0])
    if kind is bool:
        can_be_none = type(None) in kinds
        return {"action": argparse.BooleanOptionalAction if can_be_none else "store_true"}
    if origin is Literal:
        return {"choices": inner}
    if origin is tuple:
        return {"type": _with_commas(inner[0]), "metavar": LISTS[inner[0]]}
    if origin is Sequence:
        several = {"action": "append"} if repeat else {"nargs": "+"}
        members, flag = _members(inner[0])
        options = _parsing(members) | several
        return options | ({"metavar": flag.metavar} if flag.metavar else {})
    words = [word for one in kinds if get_origin(one) is Literal for word in get_args(one)]
    if words:
        metavar = "|".join((METAVARS[kind], *words))
        return {"type": _number_or(words, kind), "metavar": metavar}
    metavar = "DIR|ID" if {str, Path} <= set(kinds) else METAVARS.get(kind)
    parse = float if float in kinds else kind
    return {"type": None if parse is str else parse, "metavar": metavar}


def _with_commas(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def list_with_commas(text: str) -> tuple[Any, ...]:  # argparse's errors have this name
        return tuple(kind(part.strip()) for part in text.split(","))

    return list_with_commas


def _number_or(words: Sequence[str], kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def size(text: str) -> Any:
        return text if text in words else kind(text)

    return size


def _summary(docstring: str) -> str:
    """Return the first paragraphs of a docstring, which say what a command does."""
    return _plain(re.split(SECTION, docstring)[0])


def example_of(function: Any) -> str:
    """Return the end of the help: the command lines under ``Example:`` in a docstring; else ""."""
    sections = re.split(SECTION, inspect.getdoc(function) or "")
    examples = [one.splitlines()[1:] for one in sections if one.startswith("Example:\n")]
    lines = [line.strip() for lines in examples for line in lines]
    return EXAMPLE + f"\n{' ' * len(EXAMPLE)}".join(lines) if lines else ""


class _HelpFormatter(argparse.HelpFormatter):
    """The usual help, but command lines of examples are not broken into lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


def texts_of(source: Any) -> dict[str, str]:
    """Return the descriptions of arguments in a docstring, and in those of base classes."""
    texts: dict[str, str] = {}
    for owner in reversed(getattr(source, "__mro__", (source,))):
        docstring = inspect.cleandoc(owner.__doc__ or "")
        entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", docstring, re.MULTILINE)
        texts |= {name: _plain(text).rstrip(".") for name, text in entries}
    return texts


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _help(text: str, default: Any) -> str:
    """Return a text with the default, where that is a value which the text does not name."""
    text = text.replace("%", "%%")
    is_unset = any(default is one for one in (None, False, Parameter.empty))
    if is_unset or default in ("", ()) or "default:" in text:
        return text
    parts = default if isinstance(default, tuple) else (default,)
    shown = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
    return f"{text} (default: {shown})"
