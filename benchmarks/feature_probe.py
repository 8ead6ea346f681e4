"""Measure how well one linear layer predicts depth from the frozen features of backbones.

The probe is a ridge regression (penalty 1e4) from features to depth. It is trained on ten labelled
rooms of the split ``val``, and scored on 80 rooms of the split ``test``. This is repeated for eight
draws of labelled rooms. The features of all levels are resized to 32 x 32 cells and concatenated
with the position of the cell (coordinates, their squares and their product); all are standardised
over the labelled rooms. The score is the RMSE of a room, averaged over the rooms. Differences to
the first backbone are paired by draw. Rooms are rendered at 256 px, and each backbone reads them at
the size after its ``@``.

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
    """Return the features ``n c 32 32`` of all levels for images ``n 3 256 256`` in [0, 1].

    Raises:
        InputError: if the backbone's size does not divide 256.
    """
    factor, remainder = divmod(RENDERED_PX, source.short_side_px)
    if remainder:
        raise InputError(f"{source}: give a size that divides {RENDERED_PX}")
    return torch.cat(list(_maps(source, functional.avg_pool2d(images, factor))))


def _maps(source: BackboneSource, images: Tensor) -> Iterator[Tensor]:
    extractor = Extractor(source.folder) if source.is_diffusion else None
    for batch in images.split(BATCH):
        if extractor is None:
            levels = source.vision(batch).features
        else:
            levels = extractor(extractor.encode(batch))
        cells = [functional.interpolate(x, (CELLS, CELLS), mode="bilinear") for x in levels]
        yield torch.cat(cells, dim=1)


def positions() -> Tensor:
    """Return coordinates in [-1, 1], their squares and their product, ``5 32 32``."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, CELLS)] * 2, indexing="ij")
    return torch.stack([y, x, y * y, x * x, y * x])


def ridge(train: Tensor, depth: Tensor, test: Tensor) -> Tensor:
    """Return the predicted depth of test images, ``n h w`` in metres.

    Args:
        train: features of the labelled images, ``m c h w``.
        depth: depth of the labelled images, ``m h w`` in metres.
        test: features of the test images, ``n c h w``.
    """
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
    """Return the root mean squared error per image, averaged over images ``n h w``."""
    return float((predicted - depth).square().mean(dim=(1, 2)).sqrt().mean())


def scores(args: argparse.Namespace, rooms: Images) -> dict[str, dict[int, float]]:
    """Return the RMSE by backbone and draw; the last entry is that of the mean map."""
    step = RENDERED_PX // CELLS
    depth = rooms.labels["depth"][:, 0, step // 2 :: step, step // 2 :: step]
    images, labelled = rooms.image.float() / 255, args.draws * args.shots
    draws = torch.arange(labelled).split(args.shots)
    by_name: dict[str, dict[int, float]] = {}
    for name in args.features:
        say(f"{Path(name).name}\n")
        x = features(BackboneSource(name), images)
        x = torch.cat([x, positions().expand(len(x), -1, -1, -1)], dim=1)
        by_name[Path(name).name] = {
            d: rmse(ridge(x[draw], depth[draw], x[labelled:]), depth[labelled:])
            for d, draw in enumerate(draws)
        }
    by_name["mean map"] = {
        d: rmse(depth[draw].mean(dim=0), depth[labelled:]) for d, draw in enumerate(draws)
    }
    return by_name


def main() -> None:
    """Score the features and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--features", nargs="+", default=list(DEFAULTS), help="backbones, optionally with @SIZE"
    )
    parser.add_argument("--draws", type=int, default=8, help="draws of labelled rooms")
    parser.add_argument("--shots", type=int, default=10, help="labelled rooms per draw")
    parser.add_argument("--tests", type=int, default=80, help="number of test rooms")
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
    by_name = scores(args, rooms)
    reference = next(iter(by_name.values()))
    rows = [[name, cell(values, reference, 3)] for name, values in by_name.items()]
    options = [Path(option).name if "/" in option else option for option in sys.argv[1:]]
    command = " ".join(["python benchmarks/feature_probe.py", *options])
    text = f"{table(['features', 'RMSE, m'], rows)}\n\n`{command}`"
    if not args.quick:
        write_block(args.report, "feature_probe", text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
