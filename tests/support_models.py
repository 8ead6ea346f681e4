"""Small models, and functions that edit saved models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.tiny_model import ARCHITECTURE, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffsight.backbones import BackboneSource
from diffsight.hub import fingerprint
from diffsight.methods import FewShot
from diffsight.model import DenseModel
from diffsight.tasks.depth import Depth

__all__ = [
    "ARCHITECTURE",
    "RESULT",
    "edit_config",
    "few_shot",
    "fingerprint_of",
    "flip_last_byte",
    "tiny",
]

# example of what ``Evaluation.as_dict`` returns
RESULT = {
    "protocol": {"name": "rooms-v1"},
    "plan": "own size, whole image, no flip",
    "data": "rooms-test",
    "metrics": {"rmse": 0.51234, "d1": 0.9},
    "baselines": {"mean map": {"rmse": 0.7, "d1": 0.5}},
}


def few_shot(source: BackboneSource, *, bins: int = 6) -> DenseModel:
    """Return a FewShot depth model with two frozen parts: a diffusion model and CLIP."""
    torch.manual_seed(1)
    depths = torch.rand(500, 1) * 4 + 1
    task = Depth(max_depth_m=None, bins=bins).fitted(depths)
    return DenseModel(task=task, method=FewShot.from_backbone(source)).eval()


def fingerprint_of(model: DenseModel) -> str:
    """Return the fingerprint of all tensors of a model."""
    return fingerprint(model.state_dict().items())


def edit_config(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the configuration of a saved model, a folder or a file, and nothing else."""
    if path.is_dir():
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))
        return
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["diffsight"])
    change(config)
    tensors = load_file(path)
    save_file(tensors, path, {"diffsight": json.dumps(config)})


def flip_last_byte(path: Path) -> None:
    """Change one bit of the last byte of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
