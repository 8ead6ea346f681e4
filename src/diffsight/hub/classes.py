"""Find classes by name, in diffsight and in packages that the user trusts."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from diffsight.config import Configurable
from diffsight.errors import InputError, suggest

# parts of diffsight in which short class names are looked up; those that import quickly come first
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


def resolve_class(name: str, *, key: str = "", trusted: Sequence[str] = ()) -> type:
    """Return the configurable class with a full path, or with a short name that diffsight exports.

    Nothing is imported for a name that is refused.

    Args:
        name: name of the class, such as ``VPD`` or ``my_package.MyMethod``.
        key: key of the name in its file, for messages.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: if there is no such class (the message suggests the nearest name), or if it may
            not be named.
    """
    module, _, attribute = name.rpartition(".")
    at = f"{key}: " if key else ""
    if not module:
        classes: dict[str, type] = {}
        for part in PARTS:
            classes |= _exported_classes(part)
            if name in classes:
                return classes[name]
        # classes of higher layers, once those are imported: optimisers, schedules, stages
        classes = _imported_classes(Configurable) | classes
        if name in classes:
            return classes[name]
        raise InputError(f"{at}there is no class {name!r}: {suggest(name, classes)}")
    if any(step.startswith("_") for step in name.split(".")):
        raise InputError(f"{at}class {name!r} is refused: part of its name is private")
    if not name.startswith(tuple(f"{package}." for package in ("diffsight", *trusted))):
        package = module.partition(".")[0]
        raise InputError(
            f"{at}class {name!r} is refused, because importing it could run any code: add "
            f"--trust {package} (in Python trusted=[{package!r}]) if you trust that package"
        )
    try:
        value = getattr(_import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"{at}{module} cannot be imported ({error})") from None
        if not module.startswith("diffsight."):
            raise InputError(
                f"{at}there is no module {module!r}: run this in the folder of {module}, or add "
                "that folder to PYTHONPATH"
            ) from None
        value = None
    if value is None:
        names = vars(sys.modules[module]) if module in sys.modules else {}
        classes = _configurable_classes(names)
        suggestion = f": {suggest(attribute, classes)}" if classes else ""
        raise InputError(f"{at}there is no class {name!r}{suggestion}")
    if not (isinstance(value, type) and issubclass(value, Configurable)):
        raise InputError(
            f"{at}{name!r} is refused: it is not derived from a configurable class of diffsight"
        )
    return value


def _import_module(module: str) -> ModuleType:
    """Import a module. The working folder is searched too, after all other folders.

    Python searches it for ``python -m``, but not for an installed command such as ``diffsight``.
    """
    folder = str(Path.cwd())
    if folder in sys.path:
        return importlib.import_module(module)
    sys.path.append(folder)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(folder)


def _exported_classes(part: str) -> dict[str, type]:
    return _configurable_classes(vars(importlib.import_module(f"diffsight.{part}")))


def _imported_classes(base: type) -> dict[str, type]:
    """Return the imported classes of diffsight that are derived from ``base``, by name."""
    classes: dict[str, type] = {}
    for cls in base.__subclasses__():
        classes |= _imported_classes(cls)
        if cls.__module__.startswith("diffsight.") and not inspect.isabstract(cls):
            classes[cls.__name__] = cls
    return classes


def _configurable_classes(names: Mapping[str, Any]) -> dict[str, type]:
    return {
        name: value
        for name, value in names.items()
        if isinstance(value, type)
        and issubclass(value, Configurable)
        and not inspect.isabstract(value)
    }
