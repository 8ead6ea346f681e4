"""Names and shapes of the entries in the authors' checkpoints, without values."""

import json
from pathlib import Path

import torch

PARITY = Path(__file__).parent / "parity"
KINDS = {
    "ddp-bev": "ddp_bev/manifest_stock",
    "ddp-depth": "ddp_depth/manifest_nyu_swin_t",
    "ddp-segmentation": "ddp_seg/manifest_swin_t",
    "evp-depth": "evp_depth",
    "evp-referring": "evp_refer",
    "meta-prompts-depth": "metaprompts_depth",
    "meta-prompts-segmentation": "metaprompts_seg",
    "vpd-depth": "vpd_depth",
    "vpd-referring": "vpd_refer",
    "vpd-segmentation": "vpd_seg",
}


def shapes(model: str) -> dict[str, torch.Tensor]:
    """Return the entries of an authors' checkpoint as tensors on the meta device."""
    path = PARITY / model
    path = path / "manifest.json" if path.is_dir() else path.with_suffix(".json")
    manifest = json.loads(path.read_text())
    return {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in manifest.items()
    }
