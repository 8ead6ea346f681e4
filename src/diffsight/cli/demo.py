"""``diffsight demo``: train a depth model on ten rendered rooms, without any download."""

import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.cli import options
from diffsight.cli.console import write_table
from diffsight.cli.flags import command
from diffsight.errors import InputError
from diffsight.locks import claim_folder

if TYPE_CHECKING:
    import torch

    from diffsight.datasets.base import Sample
    from diffsight.model import DenseModel
    from diffsight.tasks import Prediction

SHOTS = 10
TESTS = 24  # held-out rooms
SHOWN = 6  # held-out rooms in the picture
SIZE_PX = 192
FEW_SHOT_STEPS = 20  # at most, because its steps are slower than those of feature_head
ROOM = re.compile(r"room\d+\.png")  # names of the demo's images and labels
log = logging.getLogger(__name__)


@command("demo", claim=claim_folder)
def main(*, out: options.Folder = Path("demo"), seed: int = 0, steps: int = 60) -> int:
    """Render ten rooms, train a depth model on them, and draw its predictions of other rooms.

    The demo compares the backbones that are installed with diffsight. It needs no download and
    takes about a minute on two CPU cores.

    Args:
        out: folder for the rooms, the model and the picture.
        seed: seed of the ten rooms and of the training.
        steps: number of steps of every training; few_shot uses at most 20.

    Example:
        diffsight demo --out demo
    """
    import torch
    from rich.table import Table

    from diffsight import hub
    from diffsight.adaptation.adapt import adapt
    from diffsight.inference import Plan, Predictor

    begin = time.monotonic()
    images, labels, path = out / "images", out / "depth", out / "depth.safetensors"
    log.info("training on %d labelled rooms: about a minute on two cores", SHOTS)
    train = _rooms("val", seed * SHOTS, SHOTS)
    _write(train, images, labels)
    methods = f"feature_head,few_shot:max_steps={FEW_SHOT_STEPS}"
    model = adapt(images, labels, kind="depth", method=methods, steps=steps, seed=seed)
    hub.save(model, path)
    tests = _rooms("test", 0, TESTS)
    predictor = Predictor(model, Plan(short_side=model.info["short_side"]))
    predictions = list(predictor(room.image for room in tests))
    chosen, held_out = model.info["chosen"], model.info["held_out"]
    new = _scores(train, tests, {chosen: torch.cat([one.to_label() for one in predictions])})
    table = Table("depth from", "held out", f"{TESTS} new rooms", title="RMSE, m")
    for name in (*held_out, *(name for name in new if name not in held_out)):
        shown = (f"{rows[name]:.3f}" if name in rows else "" for rows in (held_out, new))
        table.add_row(f"{name} (chosen)" if name == chosen else name, *shown)
    picture = _picture(model, tests[:SHOWN], predictions[:SHOWN], out / "rooms.png")
    write_table(table, width=80)
    again = f"diffsight adapt --images {images} --labels {labels} --kind depth"
    sys.stdout.write(
        f"after {time.monotonic() - begin:.0f} s: {model.info['verdict']}\n"
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
    """Write images as PNG and depth as 16-bit PNG in millimetres."""
    from PIL import Image

    from diffsight.atomic import replacing
    from diffsight.datasets.depth import write_depth_png

    earlier = [path for folder in (images, labels) for path in _earlier_files(folder)]
    for folder in (images, labels):
        options.require_writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
    for path in earlier:
        path.unlink()
    for i, sample in enumerate(samples):
        with replacing(images / f"room{i}.png") as partial:
            Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(partial, format="PNG")
        depth_m, valid = sample.labels["depth_m"][0], sample.valid["depth_m"]
        write_depth_png(labels / f"room{i}.png", depth_m, valid)


def _earlier_files(folder: Path) -> list[Path]:
    """Return the files of an earlier demo.

    Raises:
        InputError: if the folder contains other files.
    """
    paths = sorted(folder.glob("[!.]*"))
    others = [path.name for path in paths if not ROOM.fullmatch(path.name)]
    if others:
        raise InputError(
            f"{folder}: contains files that no demo wrote ({others[0]}): choose another --out"
        )
    return paths


def _scores(
    train: Sequence["Sample"], tests: Sequence["Sample"], predicted: dict[str, "torch.Tensor"]
) -> dict[str, float]:
    """Return the RMSE in metres of predictions and of three baselines, over all valid pixels."""
    import torch

    from diffsight.adaptation.verdict import CONSTANT, MEAN_MAP

    (image, depth_m, valid), (test_image, truth_m, test_valid) = map(_stacked, (train, tests))
    mean_m = depth_m[valid].mean()
    average = (depth_m * valid).sum(dim=0) / valid.sum(dim=0).clamp(min=1)
    average = torch.where(valid.any(dim=0), average, mean_m)
    colours = torch.linalg.lstsq(_with_one(image)[valid], depth_m[valid][:, None]).solution
    rows = predicted | {
        CONSTANT: mean_m.expand_as(truth_m),
        MEAN_MAP: average.expand_as(truth_m),
        "colour of the pixel": (_with_one(test_image) @ colours)[..., 0],
    }
    return {
        name: float((value - truth_m)[test_valid].square().mean().sqrt())
        for name, value in rows.items()
    }


def _stacked(samples: Sequence["Sample"]) -> tuple["torch.Tensor", ...]:
    import torch

    # in 32 bit the least-squares solution, and so the table, varies between runs
    image = torch.stack([s.image for s in samples]).movedim(1, -1).double() / 255
    depth_m = torch.stack([s.labels["depth_m"][0] for s in samples])
    return image, depth_m.double(), torch.stack([s.valid["depth_m"] for s in samples])


def _with_one(colour: "torch.Tensor") -> "torch.Tensor":
    """Return the channels and a constant 1 (products of channels would overfit ten rooms)."""
    import torch

    return torch.cat([torch.ones_like(colour[..., :1]), colour], dim=-1)


def _picture(
    model: "DenseModel", tests: Sequence["Sample"], predictions: Sequence["Prediction"], path: Path
) -> Path:
    """Write a picture with a row per room: image, truth, prediction and error."""
    import torch
    from PIL import Image

    from diffsight.atomic import replacing
    from diffsight.datasets.base import collate

    task, batch = model.task, collate(tests, "depth_m")
    panels = map(task.panel, batch.inputs.image, task.truth(batch.target), predictions)
    sheet = Image.fromarray(torch.cat(list(panels), dim=1).permute(1, 2, 0).numpy())
    with replacing(path) as partial:
        sheet.save(partial, format="PNG")
    return path
