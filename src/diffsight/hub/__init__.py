"""Saved models: ``save``, ``load`` and ``push``."""

from diffsight.hub.artifact import Artifact, fingerprint
from diffsight.hub.build import build, construct
from diffsight.hub.classes import resolve_class
from diffsight.hub.load import load, read_config, resolve
from diffsight.hub.save import push, read_baselines, record, save, write_baselines

__all__ = [
    "Artifact",
    "build",
    "construct",
    "fingerprint",
    "load",
    "push",
    "read_baselines",
    "read_config",
    "record",
    "resolve",
    "resolve_class",
    "save",
    "write_baselines",
]
