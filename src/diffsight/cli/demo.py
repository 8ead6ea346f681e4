"""``diffsight demo``: learn depth from ten labelled rooms on the embedded model, in a minute."""

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.errors import InputError

if TYPE_CHECKING:
    import torch

    from diffsight.datasets.base import Sample
    from diffsight.model import DenseModel

DESCRIPTION = (
    "Render ten rooms, learn depth from them on the embedded model, and draw the predictions for "
    "other rooms; about a minute on two cores."
)
SHOTS = 10
STEPS = 150
TESTS = 24  # held-out rooms
SHOWN = 6  # of the held-out rooms, in the picture
SIZE_PX = 128
PANEL_PX = 192  # side of a room in the picture
ROOM = re.compile(r"room\d+\.png")  # names of a demo's images and labels
log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight demo", description=DESCRIPTION)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="folder (default: demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which ten rooms (default: 0)")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"steps of the training (default: {STEPS})"
    )
    args = parser.parse_args(argv)

    from diffsight import hub
    from diffsight.adaptation.adapt import adapt

    begin = time.monotonic()
    images, labels, path = args.out / "images", args.out / "depth", args.out / "depth.safetensors"
    log.info("depth from %d labelled rooms: about a minute on two cores", SHOTS)
    train = _rooms("val", args.seed * SHOTS, SHOTS)
    _write(train, images, labels)
    model = adapt(
        images, labels, kind="depth", method="feature_head", steps=args.steps, seed=args.seed
    )
    hub.save(model, path)
    tests = _rooms("test", 0, TESTS)
    rows = _scores(model, train, tests)
    picture = _picture(model, tests[:SHOWN], args.out / "rooms.png")
    _show(rows)
    again = f"diffsight adapt --images {images} --labels {labels} --kind depth"
    sys.stdout.write(
        f"after {time.monotonic() - begin:.0f} s, on {TESTS} held-out rooms\n"
        f"picture: {picture} (image | truth | prediction | error)\n"
        f"model:   {path}, {path.stat().st_size / 1000:.0f} kB\n"
        f"again:   {again} --out mine.safetensors\n"
        f"next:    diffsight predict PHOTO.jpg --model {path} --out depth\n"
    )
    return 0


def _rooms(split: str, first: int, count: int) -> list["Sample"]:
    from diffsight.rooms import Rooms

    rooms = Rooms(split, first + count, SIZE_PX, ("depth_m",))
    return [rooms[first + i] for i in range(count)]


def _write(samples: Sequence["Sample"], images: Path, labels: Path) -> None:
    """Write images and labels as a user has them: PNG, and 16-bit PNG of millimetres."""
    from PIL import Image

    from diffsight.datasets.depth import write_depth_png
    from diffsight.datasets.files import replacing

    earlier = [path for folder in (images, labels) for path in _earlier(folder)]
    try:
        for path in earlier:
            path.unlink()
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}: choose another --out") from None
    for i, sample in enumerate(samples):
        with replacing(images / f"room{i}.png") as partial:
            Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(partial, format="PNG")
        depth_m, valid = sample.labels["depth_m"][0], sample.valid["depth_m"]
        write_depth_png(labels / f"room{i}.png", depth_m, valid)


def _earlier(folder: Path) -> list[Path]:
    """Return the files of an earlier demo.

    Raises:
        InputError: if the folder holds others.
    """
    found = sorted(folder.glob("[!.]*"))
    others = [path.name for path in found if not ROOM.fullmatch(path.name)]
    if others:
        raise InputError(
            f"{folder}: holds files that are not of a demo ({others[0]}): choose another --out"
        )
    return found


def _scores(
    model: "DenseModel", train: Sequence["Sample"], tests: Sequence["Sample"]
) -> dict[str, float]:
    """Return the RMSE in metres over all valid pixels, of the model and of three baselines."""
    import torch

    from diffsight.inference import Plan, Predictor

    predictor = Predictor(model, Plan(short_side=model.info["short_side"]))
    found = torch.cat([p.to_label() for p in predictor(s.image for s in tests)])
    (image, depth_m, valid), (pixels, truth_m, counted) = map(_stacked, (train, tests))
    mean_m = depth_m[valid].mean()
    average = (depth_m * valid).sum(dim=0) / valid.sum(dim=0).clamp(min=1)
    average = torch.where(valid.any(dim=0), average, mean_m)
    colours = torch.linalg.lstsq(_with_one(image)[valid], depth_m[valid][:, None]).solution
    rows = {
        f"{model.info['chosen']}, {len(train)} images": found,
        "mean depth of every pixel position": average.expand_as(truth_m),
        "colour of the pixel (least squares)": (_with_one(pixels) @ colours)[..., 0],
        "one depth for all": mean_m.expand_as(truth_m),
    }
    return {
        name: float((value - truth_m)[counted].square().mean().sqrt())
        for name, value in rows.items()
    }


def _stacked(samples: Sequence["Sample"]) -> tuple["torch.Tensor", ...]:
    import torch

    # in 32 bit the solution of least squares, and with it the table, differs from run to run
    image = torch.stack([s.image for s in samples]).movedim(1, -1).double() / 255
    depth_m = torch.stack([s.labels["depth_m"][0] for s in samples])
    return image, depth_m.double(), torch.stack([s.valid["depth_m"] for s in samples])


def _with_one(colour: "torch.Tensor") -> "torch.Tensor":
    """Return the channels and 1; products of channels overfit ten rooms."""
    import torch

    return torch.cat([torch.ones_like(colour[..., :1]), colour], dim=-1)


def _show(rows: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("depth from", "RMSE, m")
    for name, rmse_m in rows.items():
        table.add_row(name, f"{rmse_m:.3f}")
    Console(file=sys.stdout, width=80).print(table)


def _picture(model: "DenseModel", tests: Sequence["Sample"], path: Path) -> Path:
    """Write a row per room: image, truth, prediction and error."""
    import torch
    from PIL import Image

    from diffsight.datasets.base import collate
    from diffsight.datasets.files import replacing
    from diffsight.inference import Plan, Predictor

    task = model.task
    batch = collate(tests, "depth_m")
    predictor = Predictor(model, Plan(short_side=model.info["short_side"]))
    found = predictor(s.image for s in tests)
    panels = map(task.panel, batch.inputs.image, task.truth(batch.target), found)
    sheet = Image.fromarray(torch.cat(list(panels), dim=1).permute(1, 2, 0).numpy())
    factor = PANEL_PX / SIZE_PX
    size = (round(sheet.width * factor), round(sheet.height * factor))
    with replacing(path) as partial:
        sheet.resize(size, Image.Resampling.LANCZOS).save(partial, format="PNG")
    return path
