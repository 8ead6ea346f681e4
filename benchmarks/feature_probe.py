"""Measure how much depth one linear layer reads from the frozen features of backbones.

Ten rooms are labelled, eight times others (split ``val``); 80 rooms of the split ``test`` are
scored. A ridge regression (penalty 1e4) maps the features to depth: those of all levels, brought to
32 x 32 cells, with the position of the cell (coordinates, their squares and product), all
standardised over the labelled rooms. The score is the RMSE of a room, averaged over the rooms; the
differences to the first backbone are paired by draw. Every backbone sees the rooms, rendered at
256 px, at the size after its ``@``.

    python benchmarks/feature_probe.py [--features tiny@128 DIR@128 efficientnet-lite0@256 ...]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from labelled_rooms import Images, render
from pretrained import Extractor
from reporting import RESULTS, cell, say, table, write_block
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError

RENDERED_PX, CELLS, PENALTY, BATCH = 256, 32, 1e4, 16
DEFAULTS = ("tiny", "efficientnet-lite0@64", "efficientnet-lite0@128", "efficientnet-lite0@256")


@torch.inference_mode()
def features(source: BackboneSource, images: Tensor) -> Tensor:
    """Return the features ``n c 32 32`` of all levels for images ``n 3 256 256``."""
    factor, rest = divmod(RENDERED_PX, source.short_side_px)
    if rest:
        raise InputError(f"{source}: give a size that divides {RENDERED_PX}")
    return torch.cat(list(_maps(source, functional.avg_pool2d(images, factor))))


def _maps(source: BackboneSource, images: Tensor) -> Iterator[Tensor]:
    extractor = Extractor(source.folder) if source.is_diffusion else None
    for some in images.split(BATCH):
        if extractor is None:
            levels = source.vision(some).features
        else:
            levels = extractor(extractor.encode(some))
        cells = [functional.interpolate(x, (CELLS, CELLS), mode="bilinear") for x in levels]
        yield torch.cat(cells, dim=1)


def positions() -> Tensor:
    """Return coordinates in [-1, 1], their squares and their product, ``5 32 32``."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, CELLS)] * 2, indexing="ij")
    return torch.stack([y, x, y * y, x * x, y * x])


def ridge(train: Tensor, depth: Tensor, test: Tensor) -> Tensor:
    """Return depth ``n h w`` that a regression on ``train`` predicts for the features ``test``."""
    rows = train.movedim(1, -1).flatten(0, 2).double()
    deviation, mean = torch.std_mean(rows, dim=0)
    rows = (rows - mean) / (deviation + 1e-6)
    truth = depth.flatten().double()
    gram = rows.mT @ rows
    gram.diagonal().add_(PENALTY)
    weight = torch.linalg.solve(gram, rows.mT @ (truth - truth.mean()))
    standard = (test.movedim(1, -1).double() - mean) / (deviation + 1e-6)
    return (standard @ weight + truth.mean()).float()


def rmse(predicted: Tensor, depth: Tensor) -> float:
    """Return the root mean squared error of an image, averaged over the images."""
    return float((predicted - depth).square().mean(dim=(1, 2)).sqrt().mean())


def scores(args: argparse.Namespace, rooms: Images) -> dict[str, dict[int, float]]:
    """Return the scores by name of the features and by draw; the per-pixel mean map comes last."""
    step = RENDERED_PX // CELLS
    depth = rooms.labels["depth"][:, 0, step // 2 :: step, step // 2 :: step]
    images, labelled = rooms.image.float() / 255, args.draws * args.shots
    draws = torch.arange(labelled).split(args.shots)
    found: dict[str, dict[int, float]] = {}
    for name in args.features:
        say(f"{Path(name).name}\n")
        x = features(BackboneSource(name), images)
        x = torch.cat([x, positions().expand(len(x), -1, -1, -1)], dim=1)
        found[Path(name).name] = {
            d: rmse(ridge(x[draw], depth[draw], x[labelled:]), depth[labelled:])
            for d, draw in enumerate(draws)
        }
    found["mean map"] = {
        d: rmse(depth[draw].mean(dim=0), depth[labelled:]) for d, draw in enumerate(draws)
    }
    return found


def main() -> None:
    """Score the features and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", nargs="+", default=list(DEFAULTS), help="backbones")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--tests", type=int, default=80)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", type=Path, default=RESULTS, help="page to write the table into")
    parser.add_argument("--quick", action="store_true", help="test run: no page is written")
    args = parser.parse_args()
    if args.quick:
        args.draws, args.shots, args.tests = 2, 2, 4
    torch.set_num_threads(args.threads)
    scenes = [("val", i) for i in range(args.draws * args.shots)]
    scenes += [("test", i) for i in range(args.tests)]
    say(f"rendering {len(scenes)} rooms\n")
    rooms = render(scenes, RENDERED_PX, args.threads if len(scenes) > 20 else 1, "cpu")
    found = scores(args, rooms)
    reference = next(iter(found.values()))
    rows = [[name, cell(values, reference, 3)] for name, values in found.items()]
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    command = " ".join(["python benchmarks/feature_probe.py", *words])
    text = f"{table(['features', 'RMSE, m'], rows)}\n\n`{command}`"
    if not args.quick:
        write_block(args.report, "feature_probe", text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
