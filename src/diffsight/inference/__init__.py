"""Inference: ``pipeline``, the predictor and its plan, evaluation, and files of predictions."""

import importlib
from typing import Any

_MODULES = {"Pipeline": "pipeline", "Plan": "plan", "Predictor": "predictor"}
_MODULES |= {"SharedLatents": "shared_latents", "export_model": "export"}
__all__ = ["Pipeline", "Plan", "Predictor", "SharedLatents", "export_model"]


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that the command line can read ``Plan`` without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
