"""Measure how selective the self-attention of the UNet's decoder is.

FewShot multiplies its maps with self-attention, which helps if a pixel attends to pixels of its own
class. For every self-attention layer of the decoder, at timestep 200 with the empty prompt, the
script averages three fractions over the pixels of unseen rooms:

* the fraction of the pixels that a pixel attends to: the exponential of the entropy of its
  attention, divided by the number of pixels; 1 means that it attends to all pixels equally,
* the fraction of its attention that is on pixels of its own class,
* the fraction of the pixels that have its class.

    python benchmarks/self_attention.py [--backbone tiny] [--rooms 16] [--write]
"""

import argparse
import sys
from typing import Any

import torch
from reporting import RESULTS, table, write_block
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import BackboneSource
from diffsight.methods.conditioned import Conditioned
from diffsight.prompts import Unprompted
from diffsight.rooms import Rooms

FIRST_LAYER = 8  # the paper numbers the layers 1 to 16; the decoder begins at 8
TIMESTEP = 200


def attention(layer: Any, hidden: Tensor) -> Tensor:
    """Return the attention of a layer, averaged over its heads, ``p p`` (query, key).

    Args:
        layer: self-attention module of the UNet.
        hidden: input of the layer, ``1 p c``.
    """
    query, key = (
        project(hidden).unflatten(-1, (layer.heads, -1)).movedim(2, 1)
        for project in (layer.to_q, layer.to_k)
    )
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)[0]


def selectivity(attended: Tensor, classes: Tensor) -> Tensor:
    """Return the three fractions of the table, averaged over the pixels of an image.

    Args:
        attended: attention ``p p`` (query, key).
        classes: class ids ``h w``.
    """
    entropy = -(attended * attended.clamp(min=1e-9).log()).sum(dim=1)
    side = round(len(attended) ** 0.5)
    small = functional.interpolate(classes[None, None].float(), (side, side))[0, 0].flatten()
    same = (small[:, None] == small).float()
    fractions = (entropy.exp() / len(attended), (attended * same).sum(dim=1), same.mean(dim=1))
    return torch.stack([fraction.mean() for fraction in fractions])


@torch.no_grad()
def rows_of(source: BackboneSource, count: int) -> list[list[str]]:
    """Return a table row for each layer: its number and the means over ``count`` test rooms."""
    diffusion, hidden = source.diffusion, {}
    modules = diffusion.unet.named_modules()
    layers = {n: m for n, m in modules if n.startswith("up_") and n.endswith("attn1")}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, n=name: hidden.__setitem__(n, args[0]))
    prompts = Unprompted.from_folder(source.folder, diffusion.context_dim)
    backbone = Conditioned(diffusion, prompts, timesteps=(TIMESTEP,))
    rooms = Rooms("test", count, source.short_side_px, ("semantic",))
    sums = dict.fromkeys(layers, torch.zeros(3))
    for room in (rooms[index] for index in range(count)):
        backbone(room.image[None].float() / 255)
        for name, layer in layers.items():
            classes = room.labels["semantic"]
            sums[name] = sums[name] + selectivity(attention(layer, hidden[name]), classes)
    return [
        [f"{FIRST_LAYER + i}", *(f"{float(fraction) / count:.2f}" for fraction in total)]
        for i, total in enumerate(sums.values())
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--rooms", type=int, default=16, help="number of rooms")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    args = parser.parse_args()
    head = ["layer", "fraction of the pixels attended to"]
    head += ["fraction of the attention on the own class", "fraction of pixels of the own class"]
    text = table(head, rows_of(BackboneSource(args.backbone), args.rooms))
    sys.stdout.write(text + "\n")
    if args.write:
        command = f"python benchmarks/self_attention.py --rooms {args.rooms} --write"
        write_block(RESULTS, "self attention", f"{text}\n\n`{command}`")


if __name__ == "__main__":
    main()
