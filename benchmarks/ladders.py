"""Repeat the ablations of VPD (table 5) and EVP (table 4), and of sentences, on rooms.

The embedded model stands in for Stable Diffusion. The rows add one part after another, as in the
papers; sizes are those of ``rooms/vpd_semantic``, ``rooms/evp_depth`` and ``rooms/vpd_referring``.
Every row has the same training time: its steps are the given minutes divided by its seconds per
step, which are measured once; those of Meta Prompts (table 5) have equal steps. Rows are compared
by pairs of equal seed. Finished runs are kept as rows of the tables ``ladders_RECIPE.csv`` and not
repeated; an unfinished run starts again. Each table ends with baselines that never see an image,
and for sentences with an oracle that knows the outline of every object and takes the largest one.

    python benchmarks/ladders.py [--minutes 1] [--seeds 5] [--out DIR] [--tables DIR] [--write]
"""

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pretrained import fingerprint
from pretrained import folder_of as model_folder
from reporting import (
    RESULTS,
    claim_folder,
    interval,
    say,
    table,
    write_block,
    write_json,
)
from tables import TABLES, pack, unpack

from diffsight.cli.fit import fit_parser, train
from diffsight.cli.recipe import parse
from diffsight.datasets.base import AbstractDataset
from diffsight.inference.evaluate import protocol_for
from diffsight.metrics.referring import MaskMetrics
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory
from diffsight.rooms import CLASSES, ROOM_TYPES
from diffsight.rooms.labels import Geometry
from diffsight.rooms.language import expressions, look_around
from diffsight.rooms.render import render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.training.data import TrainingStream
from diffsight.training.fit import fit
from diffsight.training.forecast import forecast
from diffsight.training.objective import Supervised
from diffsight.training.preload import InMemory

REFERRING_FACTOR = 3.0  # sentences need longer trainings than classes
META_PROMPTS_STEPS = 80  # of eight rooms each; two minutes on one thread
TURNS = 9  # measurements of the seconds per step
Scores = dict[str, float]  # by predictor


@dataclass(frozen=True)
class Ladder:
    """The rows of one table.

    Attributes:
        heading: of the table.
        recipe: that the rows change.
        rows: command-line options after the recipe, by name of the row.
        score: key of the evaluation's scores.
        unit: name of the score in the table.
        times: factor on ``--minutes``.
        steps: of every row, in place of an equal time.
        adds_up: whether each row is compared with the one before it; else all are compared with
            the last one.
    """

    heading: str
    recipe: str
    rows: dict[str, list[str]]
    score: str
    unit: str
    times: float = 1.0
    steps: int | None = None
    adds_up: bool = True


def _call(cls: str, **arguments: Any) -> str:
    return json.dumps({"class_path": cls, "init_args": arguments})


def vpd_rows() -> dict[str, list[str]]:
    """Return the rows of VPD's table 5, as changes of rooms/vpd_semantic."""
    prompts, maps = "--method.prompts", "--method.attention_maps"
    bare = {"names": list(CLASSES), "dim": 128, "weights": "tiny"}
    nothing = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    return {
        "no prompt": [prompts, nothing, maps, "none"],
        "prompt": [prompts, _call("ClassTokens", **bare, adapter=False), maps, "none"],
        "+ adapter": [maps, "none"],
        "+ maps": [],
    }


def evp_rows() -> dict[str, list[str]]:
    """Return the rows of EVP's table 4, as changes of rooms/evp_depth.

    All rows before the captions have room types as prompts.
    """
    types = _call("TextTable", names=list(ROOM_TYPES), dim=128, weights="tiny")
    named = ["--method.prompts", types, "--method.attention_maps", "none"]
    named += ["--train.prompt", "room_type", "--val.prompt", "room_type"]
    named += ["--optim.lr_scale", json.dumps({"method.backbone": 0.1})]
    before = [*named, "--method.backbone.latent_scale", "1.0"]
    plain = ["--method.head", _call("DeconvHead", widths=[32, 32, 32], width=32)]
    frozen = ["--method.backbone.trainable", '["unet"]']
    return {
        "VPD": [*before, *plain, *frozen, "--method.refine", "null"],
        "+ IMAFR": [*before, *plain],
        "+ bins": before,
        "+ deviation": named,
        "captions": [],
    }


def meta_prompts_rows(*, adapter: bool) -> dict[str, list[str]]:
    """Return the rows of Meta Prompts' table 5, as changes of a recipe; the last is the default.

    Args:
        adapter: depth, with prompts and an adapter for each pass; else one set for all passes.
    """
    prompts, extra = "--method.prompts", {"adapter": True} if adapter else {}

    def tokens(count: int, passes: int = 3) -> str:
        one = {"class_path": "LearnedTokens"}
        one |= {"init_args": {"num_tokens": count, "dim": 128, **extra}}
        return json.dumps([one] * (passes if adapter else 1))

    def one_for_all(cls: str, **arguments: Any) -> str:
        return f"[{_call(cls, **arguments)}]"

    labels = one_for_all("ClassTokens", names=list(CLASSES), dim=128, weights="tiny")
    captions = one_for_all("Sentences", num_tokens=24, dim=128, encoder="tiny")
    rearrange = "--method.rearrange"
    bare = [rearrange, _call("Fused", multiplies=False)] if adapter else [rearrange, "null"]
    time = ["--method.time", "fixed", "--method.backbone.time_embedding", "true"]
    one = ["--method.passes", "1", "--method.backbone.conv_out", "false"]
    return {
        "label prompts": [prompts, labels],
        "caption prompts": [
            *(prompts, captions),
            *("--train.prompt", "caption", "--val.prompt", "caption"),
        ],
        "8 prompts": [prompts, tokens(8)],
        "64 prompts": [prompts, tokens(64)],
        "1 pass": [prompts, tokens(32, 1), *one],
        "2 passes": [prompts, tokens(32, 2), "--method.passes", "2"],
        "no rearrangement": bare,
        "no modulated time": time,
        "meta prompts, 32, 3 passes": [],
    }


def referring_rows() -> dict[str, list[str]]:
    """Return a row whose network reads an empty sentence, and one that reads the sentence."""
    nothing = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    return {"CLIP-free": ["--method.prompts", nothing], "VPD": []}


def seconds_per_step(ladder: Ladder) -> dict[str, float]:
    """Return the seconds of a training step of each row, without the optimiser.

    The rows take turns.
    """
    rows = {}
    for row, changes in ladder.rows.items():
        words = ["--recipe", ladder.recipe, "--out", "unused", *changes]
        built = fit_parser().instantiate(parse(fit_parser(), words, fit))
        model = DenseModel(task=built.task, method=built.method)
        first = [built.train[index] for index in range(built.batch_size)]
        stream = TrainingStream(
            dataset=InMemory(built.train, first),  # preloaded, as in training
            label=model.task.label,
            augment=built.augment,
            batch_size=built.batch_size,
            seed=0,
        )
        rows[row] = (Supervised(model, protocol_for(built.protocol, model)), stream)
    turns = [
        {row: forecast(*parts, steps=1).seconds_per_step for row, parts in rows.items()}
        for _ in range(TURNS + 1)
    ]
    return {row: statistics.median(turn[row] for turn in turns[1:]) for row in rows}


def folder_of(ladder: Ladder, row: str, args: argparse.Namespace) -> Path:
    """Return the folder with the steps and the scores of a row."""
    return args.out / ladder.recipe.replace("/", "-") / str(list(ladder.rows).index(row))


def unit_of(ladder: Ladder, row: str, seed: int, args: argparse.Namespace) -> Path:
    """Return the file of a finished run, a unit of the table."""
    return units_of(ladder, args) / row / f"seed{seed}.json"


def units_of(ladder: Ladder, args: argparse.Namespace) -> Path:
    """Return the folder of the finished runs of a ladder."""
    return args.out / "units" / ladder.recipe.removeprefix("rooms/")


def table_of(ladder: Ladder, args: argparse.Namespace) -> Path:
    """Return the table in which they are kept."""
    return args.tables / f"ladders_{ladder.recipe.removeprefix('rooms/')}.csv"


def measure(ladder: Ladder, args: argparse.Namespace) -> None:
    """Write the number of training steps of every row, unless it is there or in a finished run."""
    paths = {row: folder_of(ladder, row, args) / "steps.json" for row in ladder.rows}
    for row, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        units = sorted(unit_of(ladder, row, 0, args).parent.glob("seed*.json"))
        if units and not path.is_file():
            write_json(path, json.loads(units[0].read_text())["steps"])
    if all(path.is_file() for path in paths.values()):
        return
    if ladder.steps is not None:
        for path in paths.values():
            write_json(path, ladder.steps)
        return
    budget = ladder.times * args.minutes * 60
    for row, seconds in seconds_per_step(ladder).items():
        if not paths[row].is_file():
            write_json(paths[row], max(2, round(budget / seconds)))


def length(ladder: Ladder, row: str, args: argparse.Namespace) -> int:
    """Return the training steps of a row."""
    return json.loads((folder_of(ladder, row, args) / "steps.json").read_text())


def run(ladder: Ladder, row: str, seed: int, args: argparse.Namespace) -> Scores:
    """Return the scores of one training and of its baselines, and store them."""
    folder, path = folder_of(ladder, row, args), unit_of(ladder, row, seed, args)
    claim_folder(path.parent, {"minutes": ladder.times * args.minutes, "weights": args.weights})
    if path.is_file():
        return json.loads(path.read_text())["scores"]
    steps = str(length(ladder, row, args))
    shutil.rmtree(folder / f"run-{seed}", ignore_errors=True)  # of an interrupted run
    words = ["--recipe", ladder.recipe, "--out", str(folder / f"run-{seed}"), "--seed", str(seed)]
    words += ["--cache", str(args.out / "cache"), "--steps", steps, "--validate_every", steps]
    words += ["--checkpoint_every", steps, *ladder.rows[row]]
    fitted = train(words)
    assert fitted is not None
    assert fitted.evaluation is not None
    scores = {name: values[ladder.score] for name, values in fitted.evaluation.scores.items()}
    if ladder.score == "oiou":
        scores["largest object (oracle)"] = largest_object(fitted.validation)
    unit = {"seed": seed, "steps": int(steps), "measure": ladder.score, "scores": scores}
    unit |= {"higher_is_better": ladder.score != "rmse", "score": scores["model"]}
    write_json(path, unit)
    return scores


def largest_object(data: AbstractDataset) -> float:
    """Return the oIoU of predicting, for every sentence, the largest object that has a sentence."""
    metrics = MaskMetrics()
    for sample in (data[index] for index in range(len(data))):
        _, split, seed, index = sample.id.split("-")
        scene = sample_scene(split, int(seed), int(index))
        height, width = sample.image.shape[-2:]
        seen = look_around(scene, height, width)
        named = {thing for _, thing in expressions(scene, seen)}
        largest = next(one.index for one in seen if one.index in named)
        clean = render_clean(scene, height, width)
        mask = torch.from_numpy(Geometry(scene, height, width, clean).instance == largest)
        truth = sample.labels["referent"] == 1
        for _ in sample.sentences:
            metrics.update(mask[None], truth[None], torch.ones_like(truth)[None])
    return float(metrics.compute()["oiou"])


def climb(ladder: Ladder, args: argparse.Namespace) -> str:
    """Return the table of one ladder.

    Seeds are in the outer loop, so that an interrupted run has all rows of its seeds.
    """
    results: dict[str, list[Scores]] = {name: [] for name in ladder.rows}
    for seed in range(args.seeds):
        for name in ladder.rows:
            results[name].append(run(ladder, name, seed, args))
            say(f"{ladder.recipe} {name} {seed}: {results[name][-1]['model']:.4f}\n")
    body, before = [], None
    default = [one["model"] for one in results[list(results)[-1]]]
    for name, scores in results.items():
        if not ladder.adds_up:
            before = None if name == list(results)[-1] else default
        values = [one["model"] for one in scores]
        change = (
            ""
            if before is None
            else interval([a - b for a, b in zip(values, before, strict=True)], ".3f")
        )
        body.append([name, str(length(ladder, name, args)), interval(values, ".3f"), change])
        before = values
    baselines = {name: score for name, score in scores[0].items() if name != "model"}
    body += [[name, "", f"{score:.3f}", ""] for name, score in baselines.items()]
    other = "the row above" if ladder.adds_up else "the last row"
    head = ("row", "steps", ladder.unit, f"paired difference to {other}")
    length_text = f"{ladder.times * args.minutes:g} min" if ladder.steps is None else "equal steps"
    return f"{ladder.heading}, {length_text} a run:\n\n{table(head, body)}"


def meta_prompts_ladders() -> tuple[Ladder, Ladder]:
    """Return the ladders of Meta Prompts, with an equal number of samples for all rows."""
    return tuple(
        Ladder(
            f"Meta Prompts, {task} (its table 5)",
            f"rooms/meta_prompts_{recipe}",
            meta_prompts_rows(adapter=recipe == "depth"),
            score,
            unit,
            steps=META_PROMPTS_STEPS,
            adds_up=False,
        )
        for task, recipe, score, unit in (
            ("segmentation", "semantic", "miou", "mIoU"),
            ("depth", "depth", "rmse", "RMSE, m"),
        )
    )


def main() -> None:
    """Run all ladders and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of training steps per run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/ladders"))
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--write", action="store_true", help="write the tables to docs/results.md")
    parser.add_argument("--only", help="run the ladder of this recipe, such as vpd_semantic")
    args = parser.parse_args()
    keep_freed_memory()
    claim_folder(args.out, {"minutes": args.minutes})
    args.weights = fingerprint(model_folder("tiny"))
    ladders = (
        Ladder("VPD, segmentation (its table 5)", "rooms/vpd_semantic", vpd_rows(), "miou", "mIoU"),
        Ladder("EVP, depth (its table 4)", "rooms/evp_depth", evp_rows(), "rmse", "RMSE, m"),
        Ladder(
            "Referring segmentation",
            "rooms/vpd_referring",
            referring_rows(),
            "oiou",
            "oIoU",
            times=REFERRING_FACTOR,
        ),
        *meta_prompts_ladders(),
    )
    ladders = tuple(one for one in ladders if args.only in (None, one.recipe.split("/")[1]))
    for ladder in ladders:
        unpack(table_of(ladder, args), units_of(ladder, args))
    for ladder in ladders:  # before the first training, so that no training slows a measurement
        measure(ladder, args)
        for row in ladder.rows:
            say(f"{ladder.recipe} {row}: {length(ladder, row, args)} steps\n")
    text = "\n\n".join(climb(ladder, args) for ladder in ladders)
    for ladder in ladders:
        pack(units_of(ladder, args), table_of(ladder, args))
    sys.stdout.write(text + "\n")
    if args.write:
        command = (
            f"python benchmarks/ladders.py --minutes {args.minutes:g} --seeds {args.seeds} --write"
        )
        block = "ladders"
        if args.only:
            block, command = f"ladders_{args.only}", f"{command} --only {args.only}"
        write_block(RESULTS, block, f"`{command}`\n\n{text}")


if __name__ == "__main__":
    main()
