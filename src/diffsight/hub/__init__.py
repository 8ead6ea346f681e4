"""Models as folders: ``save``, ``load``, ``push``."""

from diffsight.hub.build import build, construct
from diffsight.hub.folder import read_config, record
from diffsight.hub.load import load, open_model, resolve
from diffsight.hub.save import fingerprint, push, save

__all__ = [
    "build",
    "construct",
    "fingerprint",
    "load",
    "open_model",
    "push",
    "read_config",
    "record",
    "resolve",
    "save",
]
