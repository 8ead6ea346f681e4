"""VPD's table 5 and EVP's table 4 on rooms: the same minutes for every row, paired by seed.

The embedded model stands for Stable Diffusion; the rows' order and parts are the papers', sizes and
lengths are those of ``rooms/vpd_semantic`` and ``rooms/evp_depth``. A row's steps are the given
minutes over its measured seconds per step, measured once. Finished runs are kept and not repeated.

    python benchmarks/ladders.py [--minutes 1] [--seeds 5] [--out runs/ladders] [--write]
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from reporting import RESULTS, claim_folder, mean_and_half_width, table, write_block, write_json

from diffsight.cli.fit import fit_parser, train
from diffsight.cli.recipe import parse
from diffsight.datasets.rooms import CLASSES, ROOM_TYPES
from diffsight.inference.evaluate import protocol_for
from diffsight.model import DenseModel
from diffsight.training.data import TrainingStream
from diffsight.training.fit import fit
from diffsight.training.forecast import forecast
from diffsight.training.memory import keep_freed_memory
from diffsight.training.objective import Supervised


def _call(cls: str, **arguments: Any) -> str:
    return json.dumps({"class_path": cls, "init_args": arguments})


def vpd_rows() -> dict[str, list[str]]:
    """Table 5: what each row changes in rooms/vpd_semantic."""
    prompts, maps = "--method.prompts", "--method.attention_maps"
    bare = {"names": list(CLASSES), "dim": 128, "weights": "tiny"}
    nothing = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    return {
        "no prompt": [prompts, nothing, maps, "none"],
        "prompt": [prompts, _call("ClassTokens", **bare, adapter=False), maps, "none"],
        "+ adapter": [maps, "none"],
        "+ maps": [],
    }


def evp_rows(std: float) -> dict[str, list[str]]:
    """Table 4: changes in rooms/evp_depth; before captions, prompts are room types."""
    types = _call("TextTable", names=list(ROOM_TYPES), dim=128, weights="tiny")
    named = ["--method.prompts", types, "--method.attention_maps", "none"]
    named += ["--train.prompt", "room_type", "--val.prompt", "room_type"]
    named += ["--optim.lr_scale", json.dumps({"method.backbone": 0.1})]
    plain = ["--method.head", _call("DeconvHead", widths=[32, 32, 32], width=32, max_value=10.0)]
    scaled = ["--method.backbone.latent_scale", f"{1 / std:.8g}"]
    frozen = ["--method.backbone.trainable", '["unet"]']
    return {
        "VPD": [*named, *plain, *frozen, "--method.refine", "null"],
        "+ IMAFR": [*named, *plain],
        "+ bins": named,
        "+ deviation": [*named, *scaled],
        "captions": scaled,
    }


def seconds_per_step(recipe: str, changes: list[str]) -> float:
    """Of a training step of a row."""
    settings = parse(fit_parser(), ["--recipe", recipe, "--out", "unused", *changes], fit)
    built = fit_parser().instantiate(settings)
    model = DenseModel(task=built.task, method=built.method)
    stream = TrainingStream(
        dataset=built.train,
        label=model.task.label,
        augment=built.augment,
        batch_size=built.batch_size,
        seed=0,
    )
    objective = Supervised(model, protocol_for(built.protocol, model))
    began = time.perf_counter()
    next(iter(stream.batches()))
    reading = time.perf_counter() - began  # rendering, which training does beforehand
    return max(forecast(objective, stream, steps=1).seconds_per_step - reading, 0.01)


def run(recipe: str, changes: list[str], seed: int, minutes: float, out: Path) -> float:
    """The score of one training; kept in ``out``."""
    path = out / f"{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())["score"]
    steps_path = out / "steps.json"
    out.mkdir(parents=True, exist_ok=True)
    if not steps_path.is_file():
        steps = max(2, round(minutes * 60 / seconds_per_step(recipe, changes)))
        write_json(steps_path, steps)
    steps = json.loads(steps_path.read_text())
    words = ["--recipe", recipe, "--out", str(out / f"run-{seed}"), "--seed", str(seed), *changes]
    words += ["--steps", str(steps), "--validate_every", str(steps)]
    fitted = train([*words, "--checkpoint_every", str(steps)])
    assert fitted is not None
    score = fitted.scores["miou" if "semantic" in recipe else "rmse"]
    write_json(path, {"score": score, "steps": steps})
    return score


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval."""
    mean, half = mean_and_half_width(values)
    return f"{mean:.3f} ± {half:.3f}"


def ladder(title: str, recipe: str, rows: dict[str, list[str]], args: argparse.Namespace) -> str:
    """The table of one ladder; seeds in the outer loop, so that a stopped run has whole columns."""
    scores: dict[str, list[float]] = {name: [] for name in rows}
    for seed in range(args.seeds):
        for number, (name, changes) in enumerate(rows.items()):
            out = args.out / title / f"{number}"
            scores[name].append(run(recipe, changes, seed, args.minutes, out))
            sys.stderr.write(f"{title} {name} {seed}: {scores[name][-1]:.4f}\n")
    body, before = [], None
    for number, (name, values) in enumerate(scores.items()):
        steps = json.loads((args.out / title / f"{number}" / "steps.json").read_text())
        change = (
            "" if before is None else interval([a - b for a, b in zip(values, before, strict=True)])
        )
        body.append([name, str(steps), interval(values), change])
        before = values
    unit = "mIoU" if "semantic" in recipe else "RMSE, m"
    return table(("row", "steps", unit, "paired difference to the row above"), body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of training steps per run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--latent-std", type=float, required=True, help="diffsight latent-std")
    parser.add_argument("--out", type=Path, default=Path("runs/ladders"))
    parser.add_argument("--write", action="store_true", help="into docs/results.md")
    args = parser.parse_args()
    keep_freed_memory()
    claim_folder(args.out, {"minutes": args.minutes, "latent_std": args.latent_std})
    vpd = ladder("vpd", "rooms/vpd_semantic", vpd_rows(), args)
    evp = ladder("evp", "rooms/evp_depth", evp_rows(args.latent_std), args)
    text = f"VPD, segmentation (its table 5):\n\n{vpd}\n\nEVP, depth (its table 4):\n\n{evp}"
    sys.stdout.write(text + "\n")
    if args.write:
        command = (
            f"python benchmarks/ladders.py --minutes {args.minutes:g} --seeds {args.seeds} "
            f"--latent-std {args.latent_std:g} --write"
        )
        write_block(RESULTS, "ladders", f"`{command}`\n\n{text}")


if __name__ == "__main__":
    main()
