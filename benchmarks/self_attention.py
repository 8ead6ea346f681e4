"""How selective is self-attention in the decoder? What spreads concepts over like pixels, or blurs.

For every self-attention layer of the UNet's decoder, over held-out rooms at t = 200 without words:
the share of the pixels that a pixel attends to (exp of the entropy, over their number; 1 is all
alike) and the attention that falls on pixels of its own class, beside those pixels' share.

    python benchmarks/self_attention.py [--base tiny] [--rooms 16] [--write]
"""

import argparse
import sys
from typing import Any

import torch
from reporting import RESULTS, table, write_block
from torch import Tensor
from torch.nn import functional

from diffsight.hub.task_file import Base
from diffsight.prompts.text import empty_prompt
from diffsight.rooms.source import RoomsSource

FIRST, TIMESTEP = 8, 200  # place of the decoder's first layer among the 16 of the paper


def attention(layer: Any, hidden: Tensor) -> Tensor:
    """``p p`` of a layer, the mean over its heads."""
    query, key = (
        project(hidden).unflatten(-1, (layer.heads, -1)).movedim(2, 1)
        for project in (layer.to_q, layer.to_k)
    )
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)[0]


def looked_at(attended: Tensor, classes: Tensor) -> Tensor:
    """Share of the pixels attended to; attention on pixels of the same class; their share."""
    entropy = -(attended * attended.clamp(min=1e-9).log()).sum(dim=1)
    side = round(len(attended) ** 0.5)
    small = functional.interpolate(classes[None, None].float(), (side, side))[0, 0].flatten()
    same = (small[:, None] == small).float()
    shares = (entropy.exp() / len(attended), (attended * same).sum(dim=1), same.mean(dim=1))
    return torch.stack([share.mean() for share in shares])


@torch.no_grad()
def rows_of(base: Base, rooms: int) -> list[list[str]]:
    backbone, hidden = base.backbone, {}
    modules = backbone.unet.named_modules()
    layers = {n: m for n, m in modules if n.startswith("up_") and n.endswith("attn1")}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, n=name: hidden.__setitem__(n, args[0]))
    words = empty_prompt(base.folder, backbone.context_dim)
    source, sums = (
        RoomsSource(size=base.short_side_px, count=rooms),
        dict.fromkeys(layers, torch.zeros(3)),
    )
    for id in source.queries("segment_semantic"):
        room = source.read("segment_semantic", id)
        assert room is not None
        backbone(room.image[None].float() / 255, words, timestep=TIMESTEP)
        for name, layer in layers.items():
            sums[name] = sums[name] + looked_at(attention(layer, hidden[name]), room.value[0])
    return [
        [f"{FIRST + i}", *(f"{float(share) / rooms:.2f}" for share in total)]
        for i, total in enumerate(sums.values())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--rooms", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="into docs/results.md")
    args = parser.parse_args()
    head = ["layer", "pixels attended to", "attention on the own class", "pixels of the own class"]
    text = table(head, rows_of(Base.load(args.base), args.rooms))
    sys.stdout.write(text + "\n")
    if args.write:
        command = f"python benchmarks/self_attention.py --rooms {args.rooms} --write"
        write_block(RESULTS, "self attention", f"{text}\n\n`{command}`")


if __name__ == "__main__":
    main()
