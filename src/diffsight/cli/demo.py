"""``diffsight demo``: a small depth model, trained on rooms while you wait."""

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffsight.training.fit import Fitted

RECIPE = "rooms/vpd_depth"
ROOMS = 6  # rows of the picture
ROOM_PX = 192  # side of a room in the picture, at most
log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    args, overrides = parser.parse_known_args(argv)

    from diffsight.cli.evaluate import show
    from diffsight.cli.fit import train

    begin = time.monotonic()
    run = args.out / "run"
    if (run / "recipe.yaml").is_file():
        shutil.rmtree(run)  # of an earlier demo
    log.info("VPD depth on rooms that are rendered now: about three minutes on two cores")
    fitted = train(["--recipe", RECIPE, "--out", str(run), "--seed", str(args.seed), *overrides])
    if fitted is None or fitted.evaluation is None:
        return 0
    picture = _picture(fitted, args.out / "rooms.png")
    show(fitted.evaluation)
    scores = fitted.evaluation.scores
    ratio = scores["model"]["rmse"] / scores["mean map"]["rmse"]
    sys.stdout.write(
        f"RMSE {scores['model']['rmse']:.3f} m, {ratio:.2f} x that of the mean map, after "
        f"{time.monotonic() - begin:.0f} s\n"
        f"picture: {picture} (image | truth | prediction | error)\n"
        f"model:   {run / 'model'}\n"
        f"next:    diffsight predict PHOTO.jpg --model {run / 'model'} --out depth\n"
    )
    return 0


def _picture(fitted: "Fitted", path: Path) -> Path:
    """Image | truth | prediction | error of the first rooms, none of which was trained on."""
    import torch
    from PIL import Image

    from diffsight.datasets.base import collate
    from diffsight.datasets.files import replacing
    from diffsight.inference import Predictor

    task, data = fitted.model.task, fitted.validation
    batch = collate([data[i] for i in range(min(ROOMS, len(data)))], task.label)
    truths, predictions = task.truth(batch.target), Predictor(fitted.model)(batch.inputs.image)
    rows = map(task.panel, batch.inputs.image, truths, predictions)
    sheet = Image.fromarray(torch.cat(list(rows), dim=1).permute(1, 2, 0).numpy())
    factor = max(1, ROOM_PX // batch.inputs.image.shape[-1])
    with replacing(path) as partial:
        sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST).save(
            partial, format="PNG"
        )
    return path
