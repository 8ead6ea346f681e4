"""Models of Stable Diffusion's topology, small enough to make many of."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.heads.deconv import DeconvHead
from diffsight.hub import fingerprint
from diffsight.methods import VPD, FewShot
from diffsight.model import DenseModel
from diffsight.necks.merging import Merging
from diffsight.prompts.text import TextTable
from diffsight.tasks.depth import Depth

ARCHITECTURE = {
    "unet": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    },
    "vae": {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2},
}


def tiny(seed: int = 0, *, head_width: int = 8) -> DenseModel:
    """Return a depth model up to 8 m with random weights."""
    torch.manual_seed(seed)
    return DenseModel(
        task=Depth(max_depth_m=8.0),
        method=functools.partial(
            VPD,
            backbone=StableDiffusion(ARCHITECTURE),
            prompts=TextTable(["kitchen", "office"], dim=8),
            neck=functools.partial(Merging, width=8, groups=4),
            head=functools.partial(DeconvHead, widths=(8, 8, 8), width=head_width),
        ),
    ).eval()


def few_shot(source: BackboneSource, *, bins: int = 6) -> DenseModel:
    """Return a FewShot depth model with two frozen parts: diffusion model and CLIP."""
    torch.manual_seed(1)
    depths = torch.rand(500, 1) * 4 + 1
    task = Depth(max_depth_m=None, bins=bins).fitted(depths)
    return DenseModel(task=task, method=FewShot.from_backbone(source)).eval()


def fingerprint_of(model: DenseModel) -> str:
    """Return the fingerprint of all tensors of a model."""
    return fingerprint(model.state_dict().items())


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the configuration of a saved model, folder or file, and nothing else."""
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
