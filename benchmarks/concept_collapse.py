"""Do concepts collapse to a constant map? Loss, entropy and contrast of M_label over a training.

Depth from ten rooms on a frozen model, the paper's method; at every mark eight held-out rooms are
asked. A collapsed model gives every pixel the same distribution: its contrast (standard deviation
of a class's probability over an image, over its mean) is 0 and its value is one number everywhere.
A UNet of random weights stands beside it.

    python benchmarks/concept_collapse.py [--steps 400] [--base tiny] [--write]
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable

import torch
from PIL import Image
from reporting import RESULTS, table, write_block

from diffsight.adaptation.adapt import describe, method_options
from diffsight.benchmark.units import draw, task_of
from diffsight.datasets.files import replacing
from diffsight.datasets.labelled_folder import Example
from diffsight.hub.task_file import Base, build_model
from diffsight.inference.explain_pictures import concept_sheet
from diffsight.ops.memory import keep_freed_memory
from diffsight.rooms.source import RoomsSource
from diffsight.tasks.dense import AbstractDense
from diffsight.training.loop import RECIPES, Encoded, encode, fit, measure
from diffsight.types import Draws

ASKED, MARKS = 8, 5
SHOWN, PICTURE = 0, "concepts.png"  # which of the rooms is drawn, and where


@torch.no_grad()
def look(method: torch.nn.Module, task: AbstractDense, asked: list[Encoded]) -> list[float]:
    """Entropy / log N, contrast of the maps, spread of the value in an image, RMSE."""
    rows = []
    for example in asked:
        raw = method(example.inputs[0], draws=Draws((0,)))
        maps = raw.maps[0].flatten(1)
        entropy = -(maps * maps.clamp(min=1e-8).log()).sum(dim=0).mean() / math.log(len(maps))
        contrast = (maps.std(dim=1) / maps.mean(dim=1).clamp(min=1e-8)).mean()
        rows.append([float(entropy), float(contrast), float(task.value(raw).std())])
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [*means, task.score(measure(method, task, asked))]  # type: ignore[arg-type]


@torch.no_grad()
def maps_of(method: torch.nn.Module, task: AbstractDense, example: Encoded) -> Image.Image:
    """The probability of every class over an image, beside image and answer."""
    raw = method(example.inputs[0], draws=Draws((0,)))
    assert task.codec.centres is not None
    classes = [
        {"name": f"{float(depth_m):.2f} m", "share": float(p.mean()), "largest": float(p.max())}
        for depth_m, p in zip(task.codec.centres[:, 0], raw.maps[0], strict=True)
    ]
    answer = task.draw(task.decode(raw)[0])
    return concept_sheet(example.inputs[0].image[0], answer, raw.maps[0], classes)


def train(
    base: Base, steps: int, seed: int, say: Callable[[str], None]
) -> tuple[list[list[float]], Image.Image]:
    """What was found at every mark, and the maps of the last step on a held-out room."""
    source = RoomsSource(size=base.short_side_px, count=ASKED)
    spec = source.tasks["depth_zbuffer"]
    support, _ = draw(source, spec, 10, seed, 0)
    task, side = task_of(spec, support), base.short_side_px
    about = describe(support, task, base, alpha=1.0, short_side=side, seed=seed)
    options = method_options(base, codebook=10, clip=None, maps={})["concepts"]
    torch.manual_seed(seed)
    method = build_model(about | {"method": "concepts", "options": options}, task, base).method
    queries = [source.read(spec.name, id) for id in source.queries(spec.name)]
    known = [encode(method, task, example, side) for example in support.examples]  # type: ignore[arg-type]
    asked = [
        encode(method, task, Example(q.id, q.image, q.value, q.valid), side)  # type: ignore[arg-type]
        for q in queries
    ]
    found = [[0.0, math.nan, *look(method, task, asked)]]
    losses: list[float] = []

    def note(step: int, parts: dict[str, float]) -> None:
        losses.append(parts["class"] / math.log(task.num_outputs))
        if step % (steps // MARKS) == 0:
            recent = losses[-(steps // MARKS) :]
            method.eval()
            row = [float(step), sum(recent) / len(recent), *look(method, task, asked)]
            method.train()
            found.append(row)
            say(" ".join(f"{x:.4g}" for x in row))

    fit(method, task, known, RECIPES["concepts"], steps=steps, seed=seed, advance=note)  # type: ignore[arg-type]
    return found, maps_of(method, task, asked[SHOWN])


def random_weights(base: Base) -> Base:
    """The same UNet before it learned anything."""
    backbone = copy.deepcopy(base.backbone)
    torch.manual_seed(0)
    for module in backbone.unet.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return Base(base.source, base.folder, backbone, "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="into docs/results.md")
    args = parser.parse_args()
    keep_freed_memory()
    base = Base.load(args.base)
    rows, sheet = [], None
    for name, one in (("pretrained", base), ("random UNet", random_weights(base))):
        found, maps = train(one, args.steps, args.seed, lambda x: sys.stderr.write(x + "\n"))
        sheet = sheet or maps  # of the pretrained one
        for row in found:
            cells = ["" if math.isnan(x) else f"{x:.3f}" for x in row[1:]]
            rows.append([name, f"{row[0]:.0f}", *cells])
    head = (
        "UNet",
        "step",
        "L_cls / log N",
        "entropy / log N",
        "contrast",
        "std of depth, m",
        "RMSE, m",
    )
    text = table(head, rows)
    sys.stdout.write(text + "\n")
    if args.write and sheet:
        command = f"python benchmarks/concept_collapse.py --steps {args.steps} --write"
        with replacing(RESULTS.with_name(PICTURE)) as partial:
            sheet.quantize(128).save(partial, format="PNG", optimize=True)
        seen = f"![Probability of every class of depth over a held-out room]({PICTURE})"
        write_block(RESULTS, "concept collapse", f"`{command}`\n\n{text}\n\n{seen}")


if __name__ == "__main__":
    main()
