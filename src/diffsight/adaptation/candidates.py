"""Candidates for a training on a few labelled images: methods, their options, and backbones.

A method spec is a method name followed by options, such as
``few_shot:codebook=5:maps.self_attention=false``. Values are written in YAML.
"""

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from diffsight.backbones import BackboneSource
from diffsight.choices import Spacing
from diffsight.errors import InputError, suggest
from diffsight.hub.build import read_plain, typed_value
from diffsight.hub.classes import resolve_class
from diffsight.methods import (
    DDP,
    EVP,
    VPD,
    AbstractMethod,
    FeatureHead,
    FewShot,
    LinearProbe,
    MetaPrompts,
    SmallUNet,
)
from diffsight.methods.base import FitSettings, MethodBuilder
from diffsight.model import choose_output
from diffsight.tasks import AbstractTask

SHORT_NAMES: Mapping[str, type[AbstractMethod]] = {
    "feature_head": FeatureHead,
    "few_shot": FewShot,
    "linear_probe": LinearProbe,
    "vpd": VPD,
    "evp": EVP,
    "meta_prompts": MetaPrompts,
    "ddp": DDP,
    "small_unet": SmallUNet,
}
AUTO = ("feature_head", "few_shot")  # cheapest first
AUTO_BACKBONES = (
    "tiny",
    "efficientnet-lite0@128",
    "efficientnet-lite0@256",
    "efficientnet-lite0@128+efficientnet-lite0@256",
)
CHECKPOINTING = "gradient_checkpointing"  # option of methods that train a UNet
# options of a task, for methods that predict a distribution over its classes
TASK_OPTIONS = {"alpha": float, "bins": int, "spacing": Spacing, "hard_labels": bool}


@dataclass(frozen=True)
class MethodSpec:
    """A parsed method spec.

    Attributes:
        method: class of the method.
        options: arguments of ``from_backbone``.
        settings: fields of ``FitSettings``; a mapping replaces single entries.
        task: arguments of the task's constructor.
    """

    method: type[AbstractMethod]
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)

    def change(self, settings: FitSettings) -> FitSettings:
        """Return training settings with the changes of the spec."""
        changes = {
            name: {**getattr(settings, name), **value} if isinstance(value, dict) else value
            for name, value in self.settings.items()
        }
        return replace(settings, **changes)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of parameter names that the spec has settings for."""
        return tuple(p for some in self.settings.values() if isinstance(some, dict) for p in some)


@dataclass(frozen=True)
class Candidate:
    """A method on a backbone, one of those that are compared.

    Attributes:
        name: the method spec, followed by the backbone if there are several.
        builder: builder of the method.
        settings: settings of its training.
        task: task fitted with the options of the spec; all candidates have the same metric.
        spec: parsed method spec.
        source: where the backbone comes from.
        short_side: shorter side in pixels of the images that the method sees.
        options: arguments that ``from_backbone`` was called with.
    """

    name: str
    builder: MethodBuilder
    settings: FitSettings
    task: AbstractTask
    spec: MethodSpec
    source: BackboneSource
    short_side: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def limit(self, steps: int) -> int:
        """Return the steps of a training, limited by ``max_steps`` of the spec."""
        return min(steps, self.spec.settings.get("max_steps", steps))

    def smaller(self) -> "Candidate | None":
        """Return a candidate whose steps need less memory, or None if there is none.

        The batch is halved, down to one image. After that, gradient checkpointing is turned on if
        the method has it and its spec does not set it.
        """
        if self.settings.batch_size > 1:
            half = self.settings.batch_size // 2
            return replace(self, settings=replace(self.settings, batch_size=half))
        build = self.spec.method.from_backbone
        can_recompute = CHECKPOINTING in inspect.signature(build).parameters
        if CHECKPOINTING in self.options or not can_recompute:
            return None
        options = {**self.options, CHECKPOINTING: True}
        return replace(self, builder=build(self.source, **options), options=options)

    def require_parameters(self, method: AbstractMethod) -> None:
        """Refuse prefixes that no trained parameter of the method begins with.

        Raises:
            InputError: with the nearest valid prefix.
        """
        names = [name for name, p in method.named_parameters() if p.requires_grad]
        parts = [name.split(".") for name in names]
        valid = {".".join(part[:count]) for part in parts for count in range(1, len(part) + 1)}
        for prefix in self.spec.prefixes:
            if prefix and prefix not in valid:
                raise InputError(
                    f"{self.name}: no trained parameter begins with {prefix!r}: "
                    f"{suggest(prefix, valid)}"
                )


def split_specs(text: str) -> list[str]:
    """Return the method specs of a comma-separated list; commas within brackets do not separate."""
    return [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text)]


def parse_spec(text: str, *, trusted: Sequence[str] = ()) -> MethodSpec:
    """Parse a method spec ``NAME:KEY=VALUE:KEY=VALUE``.

    Args:
        text: short name or full path of a class, followed by options.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: for an unknown method or key (with the nearest one), a repeated key, or a value
            of the wrong type.
    """
    name, *pairs = text.split(":")
    spec = MethodSpec(method_class(name, trusted=trusted), {}, {}, {})
    kinds = {
        "options": _option_types(spec.method),
        "settings": _types_of(FitSettings, [f.name for f in fields(FitSettings)]),
        "task": TASK_OPTIONS if "distribution" in spec.method.output_kinds else {},
    }
    seen = set()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in seen:
            problem = f"repeats {key!r}" if equals else f"{pair!r} has no value"
            raise InputError(f"{text}: {problem}: give every option once, as KEY=VALUE")
        seen.add(key)
        first, dot, rest = key.partition(".")
        group = next((group for group, names in kinds.items() if first in names), None)
        if group is None:
            names = [key for some in kinds.values() for key in some]
            raise InputError(f"{text}: {name} has no option {first!r}: {suggest(first, names)}")
        chosen: dict[str, Any] = getattr(spec, group)
        parsed = read_plain(value, source=text)
        if dot or typing.get_origin(kinds[group][first]) is Mapping:
            parsed = {**chosen.get(first, {}), rest: parsed}
        chosen[first] = typed_value(kinds[group][first], parsed, source=f"{text}: {first}")
    return spec


def method_class(name: str, *, trusted: Sequence[str] = ()) -> type[AbstractMethod]:
    """Return the method class with a short name or a full path.

    Raises:
        InputError: for an unknown name (with the nearest one), a class that is not a method, or a
            constructor with an untyped argument.
    """
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if "." not in name:
        raise InputError(f"unknown method {name!r}: {suggest(name, ('auto', *SHORT_NAMES))}")
    cls = resolve_class(name, key="method", trusted=trusted)
    if not issubclass(cls, AbstractMethod):
        raise InputError(f"{name} is not a method: give a subclass of AbstractMethod")
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        is_untyped = parameter.annotation is parameter.empty is parameter.default
        if is_named and is_untyped:
            raise InputError(
                f"{name}: the argument {parameter.name!r} of its constructor has no type, so a "
                f"saved model could not be loaded: annotate it ({parameter.name}: TYPE)"
            )
    return cls


def backbone_sources(text: str | Path, *, short_side: int | None = None) -> list[BackboneSource]:
    """Return the backbones of a comma-separated list.

    Args:
        text: names for ``BackboneSource``, or ``auto`` for ``AUTO_BACKBONES``.
        short_side: size in pixels that replaces the sizes of ``auto``.

    Raises:
        InputError: if there is no such model.
    """
    names: Sequence[str] = [str(text)]
    if text == "auto":
        names = AUTO_BACKBONES
        if short_side is not None:
            names = [name.partition("@")[0] for name in names]  # one size: nothing to join
    elif not Path(text).exists():
        names = [name.strip() for name in str(text).split(",")]
    return [BackboneSource(name) for name in dict.fromkeys(names)]


def candidates(
    names: Sequence[str],
    sources: Sequence[BackboneSource],
    fit_task: Callable[..., AbstractTask],
    *,
    short_side: int | None = None,
    options: Mapping[str, Any] | None = None,
    trusted: Sequence[str] = (),
) -> list[Candidate]:
    """Return a candidate for every method and every backbone that it supports, cheapest first.

    Args:
        names: method specs.
        sources: backbones.
        fit_task: returns the fitted task for the task options of a spec.
        short_side: shorter side in pixels of the images; default: that of the backbone.
        options: arguments of ``from_backbone``. Each is passed to the methods that accept it,
            unless their spec sets it.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: for an unknown method, a method that supports none of the backbones, or an
            option that no method accepts.
    """
    specs = {name: parse_spec(name, trusted=trusted) for name in dict.fromkeys(names)}
    common = dict(options or {})
    accepted = {
        name: inspect.signature(s.method.from_backbone).parameters for name, s in specs.items()
    }
    for option in common:
        if not any(option in parameters for parameters in accepted.values()):
            raise InputError(f"{option} is not an option of {', '.join(specs)}: leave it out")
    made = []
    for name, spec in specs.items():
        task = fit_task(**spec.task)
        shared = {**common, "class_names": task.class_names}
        own = {k: v for k, v in shared.items() if k in accepted[name]} | dict(spec.options)
        # a method that supports none of them raises the reason when it is built
        for source in [one for one in sources if spec.method.supports(one)] or sources[:1]:
            builder = spec.method.from_backbone(source, **own)
            settings = spec.method.few_shot_settings(source, choose_output(task, builder))
            title = name if len(sources) == 1 else f"{name} on {source}"
            side = source.side_px or short_side or source.short_side_px
            changed = spec.change(settings)
            made.append(Candidate(title, builder, changed, task, spec, source, side, own))
    return made


def _option_types(cls: type[AbstractMethod]) -> dict[str, Any]:
    """Return the types of those options of ``from_backbone`` that are plain values, by name."""
    parameters = dict(inspect.signature(cls.from_backbone).parameters)
    others = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    types = _types_of(cls.from_backbone, names)
    if others:  # the rest goes to the constructor
        types = _types_of(cls.__init__, inspect.signature(cls.__init__).parameters) | types
    return {name: kind for name, kind in types.items() if _is_plain(kind)}


def _types_of(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    types = typing.get_type_hints(owner)
    return {name: types[name] for name in names if name in types}


def _is_plain(kind: Any) -> bool:
    """Return whether values of a type can be written in a spec."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return True
    if origin in (Union, UnionType, tuple, list, dict, Sequence, Mapping):
        return all(_is_plain(part) for part in parts)
    return kind in (bool, int, float, str, Path, Any, NoneType, Ellipsis)
