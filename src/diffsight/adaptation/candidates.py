"""Methods that can be trained on a few labelled images, by their short names."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.hub.build import nearest, resolve_class
from diffsight.methods import EVP, VPD, AbstractMethod, FeatureHead, FewShot, LinearProbe
from diffsight.methods.base import FitSettings, MethodBuilder

SHORT_NAMES: Mapping[str, type[AbstractMethod]] = {
    "feature_head": FeatureHead,
    "few_shot": FewShot,
    "linear_probe": LinearProbe,
    "vpd": VPD,
    "evp": EVP,
}
AUTO = ("feature_head", "few_shot")  # cheap ones first


@dataclass(frozen=True)
class Candidate:
    """A method that may be chosen.

    Attributes:
        name: as it was given.
        builder: makes the method for a task.
        settings: of its training.
    """

    name: str
    builder: MethodBuilder
    settings: FitSettings


def method_class(name: str, *, trusted: Sequence[str] = ()) -> type[AbstractMethod]:
    """Return the class of a short name or of a full path.

    Raises:
        InputError: for an unknown name (naming the nearest), or a class that is no method.
    """
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if "." not in name:
        raise InputError(f"unknown method {name!r}{nearest(name, ('auto', *SHORT_NAMES))}")
    cls = resolve_class(name, where="method", trusted=trusted)
    if not issubclass(cls, AbstractMethod):
        raise InputError(f"{name} is no method: give a subclass of AbstractMethod")
    return cls


def candidates(
    names: Sequence[str],
    source: BackboneSource,
    *,
    options: Mapping[str, Any] | None = None,
    trusted: Sequence[str] = (),
) -> list[Candidate]:
    """Return the methods of these names on a backbone.

    Args:
        names: short names, or full paths of classes.
        source: the backbone.
        options: of ``from_backbone``; each goes to the methods that take it.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: for an unknown method, one that cannot stand on the backbone, or an option that
            none of them takes.
    """
    classes = {name: method_class(name, trusted=trusted) for name in dict.fromkeys(names)}
    given = dict(options or {})
    taken = {name: inspect.signature(cls.from_backbone).parameters for name, cls in classes.items()}
    for option in given:
        if not any(option in parameters for parameters in taken.values()):
            raise InputError(f"{option} is no option of {', '.join(classes)}: leave it out")
    return [
        Candidate(
            name,
            cls.from_backbone(source, **{k: v for k, v in given.items() if k in taken[name]}),
            cls.few_shot_defaults(),
        )
        for name, cls in classes.items()
    ]
