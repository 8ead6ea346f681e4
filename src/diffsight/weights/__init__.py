"""Pretrained weights as people have them: files, folders, and the Hugging Face hub."""

from diffsight.weights.files import (
    read_checkpoint,
    read_folder,
    require_finite,
    variant_of,
    weight_files,
    write_tensors,
)
from diffsight.weights.location import hub_errors, locate, part_folder, resolve_folder
from diffsight.weights.towers import load_tower, read_config, refused

__all__ = [
    "hub_errors",
    "load_tower",
    "locate",
    "part_folder",
    "read_checkpoint",
    "read_config",
    "read_folder",
    "refused",
    "require_finite",
    "resolve_folder",
    "variant_of",
    "weight_files",
    "write_tensors",
]
