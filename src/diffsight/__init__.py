"""diffsight: dense visual perception with pretrained diffusion models."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "DenseModel": "diffsight.model",
    "adapt": "diffsight.adaptation.adapt",
    "evaluate": "diffsight.inference.api",
    "fit": "diffsight.training.fit",
    "load": "diffsight.hub",
    "pipeline": "diffsight.inference.pipeline",
    "push": "diffsight.hub",
    "save": "diffsight.hub",
}
__all__ = [
    "DenseModel",
    "__version__",
    "adapt",
    "evaluate",
    "fit",
    "load",
    "pipeline",
    "push",
    "save",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``import diffsight`` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'diffsight' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
