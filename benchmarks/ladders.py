"""Repeat the ablations of VPD, EVP, Meta Prompts and referring segmentation on rendered rooms.

The embedded model replaces Stable Diffusion. A *ladder* is a table of variants of one recipe. The
rows of VPD (table 5 of its paper), EVP (table 4) and referring segmentation add one part after
another, up to the whole recipe. They have the same training time: the steps of a row are the given
minutes divided by its seconds per step, which are measured once. The rows of Meta Prompts (table 5)
have the same number of steps. Rows are compared by pairs of equal seed.

Finished runs are stored as rows of the tables ``ladders_RECIPE.csv`` and are not repeated; an
unfinished run starts again. Each table ends with baselines that see no image. The last row of
referring segmentation is an oracle, which predicts the true mask of the largest object.

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
from diffsight.inference.evaluate import resolve_protocol
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

REFERRING_FACTOR = 3.0  # referring segmentation needs longer trainings
META_PROMPTS_STEPS = 80  # with eight rooms each, two minutes on one thread
TIMINGS = 9  # number of measurements of the seconds per step
Scores = dict[str, float]  # scores of the model and of each baseline, by name


@dataclass(frozen=True)
class Ladder:
    """The rows of one table.

    Attributes:
        heading: heading of the table.
        recipe: recipe that the rows change.
        rows: command-line options that change the recipe, by name of the row.
        score: key of the score in the evaluation.
        unit: name and unit of the score in the table.
        times: factor on ``--minutes``.
        steps: training steps of every row; None for an equal training time.
        is_cumulative: whether each row is compared with the row above it; otherwise, all rows are
            compared with the last row.
    """

    heading: str
    recipe: str
    rows: dict[str, list[str]]
    score: str
    unit: str
    times: float = 1.0
    steps: int | None = None
    is_cumulative: bool = True


def _call(cls: str, **arguments: Any) -> str:
    return json.dumps({"class_path": cls, "init_args": arguments})


def vpd_rows() -> dict[str, list[str]]:
    """Return the rows of VPD's table 5, as changes to rooms/vpd_semantic."""
    prompts, maps = "--method.prompts", "--method.attention_maps"
    bare = {"names": list(CLASSES), "dim": 128, "weights": "tiny"}
    empty = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    return {
        "no prompt": [prompts, empty, maps, "none"],
        "prompt": [prompts, _call("ClassTokens", **bare, adapter=False), maps, "none"],
        "+ adapter": [maps, "none"],
        "+ maps": [],
    }


def evp_rows() -> dict[str, list[str]]:
    """Return the rows of EVP's table 4, as changes to rooms/evp_depth.

    All rows but the last have the room type as prompt.
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
    """Return the rows of Meta Prompts' table 5, as changes to a recipe; the last is the default.

    Args:
        adapter: whether each pass has its own prompts with an adapter, as for depth; otherwise, all
            passes use one set of prompts.
    """
    prompts, extra = "--method.prompts", {"adapter": True} if adapter else {}

    def tokens(count: int, passes: int = 3) -> str:
        call = {"class_path": "LearnedTokens"}
        call |= {"init_args": {"num_tokens": count, "dim": 128, **extra}}
        return json.dumps([call] * (passes if adapter else 1))

    def for_all_passes(cls: str, **arguments: Any) -> str:
        return f"[{_call(cls, **arguments)}]"

    labels = for_all_passes("ClassTokens", names=list(CLASSES), dim=128, weights="tiny")
    captions = for_all_passes("Sentences", num_tokens=24, dim=128, encoder="tiny")
    rearrange = "--method.rearrange"
    bare = [rearrange, _call("Fused", multiplies=False)] if adapter else [rearrange, "null"]
    time = ["--method.time", "fixed", "--method.backbone.time_embedding", "true"]
    one_pass = ["--method.passes", "1", "--method.backbone.conv_out", "false"]
    return {
        "label prompts": [prompts, labels],
        "caption prompts": [
            *(prompts, captions),
            *("--train.prompt", "caption", "--val.prompt", "caption"),
        ],
        "8 prompts": [prompts, tokens(8)],
        "64 prompts": [prompts, tokens(64)],
        "1 pass": [prompts, tokens(32, 1), *one_pass],
        "2 passes": [prompts, tokens(32, 2), "--method.passes", "2"],
        "no rearrangement": bare,
        "no modulated time": time,
        "meta prompts, 32, 3 passes": [],
    }


def referring_rows() -> dict[str, list[str]]:
    """Return the rows of referring segmentation: with an empty prompt, and with the sentence."""
    empty = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    return {"CLIP-free": ["--method.prompts", empty], "VPD": []}


def seconds_per_step(ladder: Ladder) -> dict[str, float]:
    """Return the median seconds of a training step of each row, without the optimiser.

    The rows are measured in turns.
    """
    rows = {}
    for row, changes in ladder.rows.items():
        options = ["--recipe", ladder.recipe, "--out", "unused", *changes]
        built = fit_parser().instantiate(parse(fit_parser(), options, fit))
        model = DenseModel(task=built.task, method=built.method)
        first = [built.train[index] for index in range(built.batch_size)]
        stream = TrainingStream(
            dataset=InMemory(built.train, first),  # preloaded, as in training
            label=model.task.label,
            augment=built.augment,
            batch_size=built.batch_size,
            seed=0,
        )
        rows[row] = (Supervised(model, resolve_protocol(built.protocol, model)), stream)
    turns = [
        {row: forecast(*parts, steps=1).seconds_per_step for row, parts in rows.items()}
        for _ in range(TIMINGS + 1)
    ]
    return {row: statistics.median(turn[row] for turn in turns[1:]) for row in rows}


def folder_of(ladder: Ladder, row: str, args: argparse.Namespace) -> Path:
    """Return the working folder of a row."""
    return args.out / ladder.recipe.replace("/", "-") / str(list(ladder.rows).index(row))


def unit_of(ladder: Ladder, row: str, seed: int, args: argparse.Namespace) -> Path:
    """Return the JSON file with the scores of a finished run."""
    return units_of(ladder, args) / row / f"seed{seed}.json"


def units_of(ladder: Ladder, args: argparse.Namespace) -> Path:
    """Return the folder of the score files of a ladder."""
    return args.out / "units" / ladder.recipe.removeprefix("rooms/")


def table_of(ladder: Ladder, args: argparse.Namespace) -> Path:
    """Return the CSV file that stores the finished runs of a ladder."""
    return args.tables / f"ladders_{ladder.recipe.removeprefix('rooms/')}.csv"


def write_steps(ladder: Ladder, args: argparse.Namespace) -> None:
    """Store the number of training steps of every row, if it is not stored yet.

    If a run of the row is finished, its number is used, so that all seeds have the same steps.
    """
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


def steps_of(ladder: Ladder, row: str, args: argparse.Namespace) -> int:
    """Return the stored number of training steps of a row."""
    return json.loads((folder_of(ladder, row, args) / "steps.json").read_text())


def run(ladder: Ladder, row: str, seed: int, args: argparse.Namespace) -> Scores:
    """Return the scores of one run and of its baselines; train the model if none are stored."""
    folder, path = folder_of(ladder, row, args), unit_of(ladder, row, seed, args)
    claim_folder(path.parent, {"minutes": ladder.times * args.minutes, "weights": args.weights})
    if path.is_file():
        return json.loads(path.read_text())["scores"]
    steps = str(steps_of(ladder, row, args))
    shutil.rmtree(folder / f"run-{seed}", ignore_errors=True)  # left by an interrupted run
    options = ["--recipe", ladder.recipe, "--out", str(folder / f"run-{seed}"), "--seed", str(seed)]
    options += ["--cache", str(args.out / "cache"), "--steps", steps, "--validate_every", steps]
    options += ["--checkpoint_every", steps, *ladder.rows[row]]
    fitted = train(options)
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
    """Return the oIoU of the true mask of the largest object among those that sentences name."""
    metrics = MaskMetrics()
    for sample in (data[index] for index in range(len(data))):
        _, split, seed, index = sample.id.split("-")
        scene = sample_scene(split, int(seed), int(index))
        height, width = sample.image.shape[-2:]
        in_view = look_around(scene, height, width)  # largest first
        named = {thing for _, thing in expressions(scene, in_view)}
        largest = next(thing.index for thing in in_view if thing.index in named)
        clean = render_clean(scene, height, width)
        mask = torch.from_numpy(Geometry(scene, height, width, clean).instance == largest)
        truth = sample.labels["referent"] == 1
        for _ in sample.sentences:
            metrics.update(mask[None], truth[None], torch.ones_like(truth)[None])
    return float(metrics.compute()["oiou"])


def run_ladder(ladder: Ladder, args: argparse.Namespace) -> str:
    """Run the missing trainings of a ladder and return its table.

    All rows are trained with one seed before the next seed, so that a part can be compared.
    """
    results: dict[str, list[Scores]] = {name: [] for name in ladder.rows}
    for seed in range(args.seeds):
        for name in ladder.rows:
            results[name].append(run(ladder, name, seed, args))
            say(f"{ladder.recipe} {name} {seed}: {results[name][-1]['model']:.4f}\n")
    body, before = [], None
    default = [by_name["model"] for by_name in results[list(results)[-1]]]
    for name, scores in results.items():
        if not ladder.is_cumulative:
            before = None if name == list(results)[-1] else default
        values = [by_name["model"] for by_name in scores]
        change = (
            ""
            if before is None
            else interval([a - b for a, b in zip(values, before, strict=True)], ".3f")
        )
        body.append([name, str(steps_of(ladder, name, args)), interval(values, ".3f"), change])
        before = values
    baselines = {name: score for name, score in scores[0].items() if name != "model"}
    body += [[name, "", f"{score:.3f}", ""] for name, score in baselines.items()]
    other = "the row above" if ladder.is_cumulative else "the last row"
    head = ("row", "steps", ladder.unit, f"paired difference to {other}")
    length = "the same number of steps in every run"
    if ladder.steps is None:
        length = f"{ladder.times * args.minutes:g} min of training per run"
    return f"{ladder.heading}, {length}:\n\n{table(head, body)}"


def meta_prompts_ladders() -> tuple[Ladder, Ladder]:
    """Return the ladders of Meta Prompts, whose rows have the same number of steps."""
    return tuple(
        Ladder(
            f"Meta Prompts, {task} (table 5 of the paper)",
            f"rooms/meta_prompts_{recipe}",
            meta_prompts_rows(adapter=recipe == "depth"),
            score,
            unit,
            steps=META_PROMPTS_STEPS,
            is_cumulative=False,
        )
        for task, recipe, score, unit in (
            ("segmentation", "semantic", "miou", "mIoU"),
            ("depth", "depth", "rmse", "RMSE, m"),
        )
    )


def main() -> None:
    """Run all ladders and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="training time per run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/ladders"), help="working folder")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the stored tables")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/results.md")
    parser.add_argument("--only", help="run only the ladder of this recipe, such as vpd_semantic")
    args = parser.parse_args()
    keep_freed_memory()
    claim_folder(args.out, {"minutes": args.minutes})
    args.weights = fingerprint(model_folder("tiny"))
    ladders = (
        Ladder(
            "VPD, segmentation (table 5 of the paper)",
            "rooms/vpd_semantic",
            vpd_rows(),
            "miou",
            "mIoU",
        ),
        Ladder(
            "EVP, depth (table 4 of the paper)", "rooms/evp_depth", evp_rows(), "rmse", "RMSE, m"
        ),
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
    for ladder in ladders:  # before the first training, which would slow the measurements
        write_steps(ladder, args)
        for row in ladder.rows:
            say(f"{ladder.recipe} {row}: {steps_of(ladder, row, args)} steps\n")
    text = "\n\n".join(run_ladder(ladder, args) for ladder in ladders)
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
