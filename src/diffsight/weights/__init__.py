"""Read pretrained weights from files, folders and the Hugging Face hub."""

from diffsight.weights.files import (
    read_checkpoint,
    read_folder,
    require_finite,
    variant_of,
    weight_files,
    write_tensors,
)
from diffsight.weights.location import hub_errors, locate, part_folder, resolve_folder
from diffsight.weights.towers import load_tower, network_names, read_config, report_errors

__all__ = [
    "hub_errors",
    "load_tower",
    "locate",
    "network_names",
    "part_folder",
    "read_checkpoint",
    "read_config",
    "read_folder",
    "report_errors",
    "require_finite",
    "resolve_folder",
    "variant_of",
    "weight_files",
    "write_tensors",
]
