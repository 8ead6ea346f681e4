"""Repeat the ablations of VPD, EVP, Meta Prompts and referring segmentation on rendered rooms.

The embedded model replaces Stable Diffusion. A *ladder* is a table of variants of one recipe. Its
first rows add one part after another, up to the whole recipe; each is compared with the row above.
The other rows change the whole recipe, and are compared with it. The rows are those of table 5 of
VPD's paper, table 4 of EVP's and table 5 of that of Meta Prompts; two rows are about referring
segmentation. All rows of a ladder are trained for the same number of steps. Rows are compared by
pairs of equal seed.

Finished runs are stored as rows of the tables ``ladders_RECIPE.csv`` and are not repeated; an
unfinished run starts again. Each table ends with baselines that see no image. The last row of
referring segmentation is an oracle, which predicts the true mask of the largest object.

One thread per process is fastest. Several processes with --shard divide the runs among them, with
the same ``--out``. A last call without --shard writes the tables.

    python benchmarks/ladders.py [--seeds 5] [--only vpd_semantic] [--out DIR] [--write]
"""

import argparse
import json
import shutil
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
    shard,
    table,
    write_block,
    write_json,
)
from tables import TABLES, pack, unpack

from diffsight.cli.fit import train
from diffsight.datasets.base import AbstractDataset
from diffsight.metrics.referring import MaskMetrics
from diffsight.ops.memory import keep_freed_memory
from diffsight.rooms import CLASSES, ROOM_TYPES
from diffsight.rooms.labels import Geometry
from diffsight.rooms.language import expressions, look_around
from diffsight.rooms.render import render_clean
from diffsight.rooms.scene import sample_scene

Scores = dict[str, float]  # scores of the model and of each baseline, by name


@dataclass(frozen=True)
class Ladder:
    """The rows of one table.

    Attributes:
        heading: heading of the table.
        recipe: recipe that the rows change.
        parts: command-line options that change the recipe, by name of the row; the last row is the
            whole recipe, without options.
        changes: options of the rows that are compared with the whole recipe, by name.
        steps: training steps of every row.
        score: key of the score in the evaluation.
        unit: name and unit of the score in the table.
    """

    heading: str
    recipe: str
    parts: dict[str, list[str]]
    changes: dict[str, list[str]]
    steps: int
    score: str
    unit: str

    @property
    def rows(self) -> dict[str, list[str]]:
        """Options of all rows by name, in the order of the table."""
        return self.parts | self.changes

    @property
    def compared(self) -> dict[str, str]:
        """Names of the rows that rows are compared with, by name."""
        names = list(self.parts)
        above = dict(zip(names[1:], names[:-1], strict=True))
        return above | dict.fromkeys(self.changes, names[-1])


def _call(cls: str, **arguments: Any) -> str:
    return json.dumps({"class_path": cls, "init_args": arguments})


def vpd_ladder() -> Ladder:
    """Return the rows of VPD's table 5."""
    prompts, maps = "--method.prompts", "--method.attention_maps"
    bare = {"names": list(CLASSES), "dim": 128, "weights": "tiny"}
    empty = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    parts = {
        "no prompt": [prompts, empty, maps, "none"],
        "prompt": [prompts, _call("ClassTokens", **bare, adapter=False), maps, "none"],
        "+ adapter": [maps, "none"],
        "+ maps of up and down blocks": [],
    }
    changes = {
        f"maps of {name} only": ["--method.attention_places", json.dumps([part])]
        for part, name in (("up", "up blocks"), ("down", "down blocks"), ("mid", "middle block"))
    }
    heading = "VPD, segmentation (table 5 of the paper)"
    return Ladder(heading, "rooms/vpd_semantic", parts, changes, 250, "miou", "mIoU")


def evp_ladder() -> Ladder:
    """Return the rows of EVP's table 4.

    The rows that add a part have the room type as prompt, the whole recipe has captions.
    """
    types = _call("TextTable", names=list(ROOM_TYPES), dim=128, weights="tiny")
    named = ["--method.prompts", types, "--method.attention_maps", "none"]
    named += ["--train.prompt", "room_type", "--val.prompt", "room_type"]
    named += ["--optim.lr_scale", json.dumps({"method.backbone": 0.1})]
    before = [*named, "--method.backbone.latent_scale", "1.0"]
    plain = ["--method.head", _call("DeconvHead", widths=[32, 32, 32], width=32)]
    frozen = ["--method.backbone.trainable", '["unet"]']
    parts = {
        "VPD": [*before, *plain, *frozen, "--method.refine", "null"],
        "+ IMAFR": [*before, *plain],
        "+ bins": before,
        "+ deviation": named,
        "+ captions": [],
    }
    changes = {"without IMAFR": ["--method.refine", "null"], "without bins": plain}
    heading = "EVP, depth (table 4 of the paper)"
    return Ladder(heading, "rooms/evp_depth", parts, changes, 150, "rmse", "RMSE, m")


def meta_prompts_ladder(*, is_depth: bool) -> Ladder:
    """Return the rows of Meta Prompts' table 5.

    For depth, each pass has its own prompts with an adapter; for segmentation, all passes use one
    set of prompts.
    """
    prompts, extra = "--method.prompts", {"adapter": True} if is_depth else {}

    def tokens(count: int, passes: int = 3) -> str:
        call = {"class_path": "LearnedTokens"}
        call |= {"init_args": {"num_tokens": count, "dim": 128, **extra}}
        return json.dumps([call] * (passes if is_depth else 1))

    def for_all_passes(cls: str, **arguments: Any) -> str:
        return f"[{_call(cls, **arguments)}]"

    labels = for_all_passes("ClassTokens", names=list(CLASSES), dim=128, weights="tiny")
    captions = for_all_passes("Sentences", num_tokens=24, dim=128, encoder="tiny")
    rearrange = "--method.rearrange"
    bare = [rearrange, _call("Fused", multiplies=False)] if is_depth else [rearrange, "null"]
    time = ["--method.time", "fixed", "--method.backbone.time_embedding", "true"]
    one_pass = ["--method.passes", "1", "--method.backbone.conv_out", "false"]
    changes = {
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
    }
    parts: dict[str, list[str]] = {"meta prompts, 32, 3 passes": []}
    task, score, unit = (
        ("depth", "rmse", "RMSE, m") if is_depth else ("segmentation", "miou", "mIoU")
    )
    recipe = f"rooms/meta_prompts_{'depth' if is_depth else 'semantic'}"
    heading = f"Meta Prompts, {task} (table 5 of the paper)"
    return Ladder(heading, recipe, parts, changes, 80, score, unit)


def referring_ladder() -> Ladder:
    """Return the rows of referring segmentation: with an empty prompt, and with the sentence."""
    empty = _call("Unprompted", num_tokens=24, dim=128, weights="tiny")
    parts = {"empty prompt": ["--method.prompts", empty], "VPD": []}
    return Ladder("Referring segmentation", "rooms/vpd_referring", parts, {}, 800, "oiou", "oIoU")


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


def run(ladder: Ladder, row: str, seed: int, args: argparse.Namespace) -> Scores:
    """Return the scores of one run and of its baselines; train the model if none are stored."""
    folder, path = folder_of(ladder, row, args), unit_of(ladder, row, seed, args)
    claim_folder(path.parent, {"weights": args.weights})
    if path.is_file():
        return json.loads(path.read_text())["scores"]
    steps = str(ladder.steps)
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
    unit = {"seed": seed, "steps": ladder.steps, "measure": ladder.score, "scores": scores}
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


def run_ladder(ladder: Ladder, args: argparse.Namespace) -> dict[str, list[Scores]]:
    """Run the missing trainings of a shard of a ladder; return its scores by name of the row.

    All rows are trained with one seed before the next seed, so that a part can be compared.
    """
    results: dict[str, list[Scores]] = {name: [] for name in ladder.rows}
    units = [(seed, name) for seed in range(args.seeds) for name in ladder.rows]
    number, count = args.shard or (0, 1)
    for seed, name in units[number::count]:
        results[name].append(run(ladder, name, seed, args))
        say(f"{ladder.recipe} {name} {seed}: {results[name][-1]['model']:.4f}\n")
    return results


def table_text(ladder: Ladder, results: dict[str, list[Scores]]) -> str:
    """Return the table of a ladder, from its scores by name of the row."""
    values = {name: [by_name["model"] for by_name in each] for name, each in results.items()}
    body = []
    for name, ours in values.items():
        other = ladder.compared.get(name)
        pairs = zip(ours, values.get(other, ()), strict=True) if other else ()
        change = interval([a - b for a, b in pairs], "+.3f") if other else ""
        body.append([name, interval(ours, ".3f"), change, other or ""])
    baselines = results[next(iter(results))][0]
    body += [[key, f"{value:.3f}", "", ""] for key, value in baselines.items() if key != "model"]
    head = ("row", ladder.unit, "paired difference", "to the row")
    return f"{ladder.heading}, {ladder.steps} steps per run:\n\n{table(head, body)}"


def main() -> None:
    """Run all ladders and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/ladders"), help="working folder")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the stored tables")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/results.md")
    parser.add_argument("--only", help="run only the ladder of this recipe, such as vpd_semantic")
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="run the portion I of N of the runs, counted from 0, and write no table",
    )
    args = parser.parse_args()
    keep_freed_memory()
    args.weights = fingerprint(model_folder("tiny"))
    ladders = (vpd_ladder(), evp_ladder(), referring_ladder())
    ladders += tuple(meta_prompts_ladder(is_depth=is_depth) for is_depth in (False, True))
    ladders = tuple(one for one in ladders if args.only in (None, one.recipe.split("/")[1]))
    for ladder in ladders:
        unpack(table_of(ladder, args), units_of(ladder, args))
    for ladder in ladders:
        results = run_ladder(ladder, args)
        if args.shard:
            continue
        text = table_text(ladder, results)
        pack(units_of(ladder, args), table_of(ladder, args))
        sys.stdout.write(f"{text}\n\n")
        if args.write:
            name = ladder.recipe.removeprefix("rooms/")
            command = f"python benchmarks/ladders.py --seeds {args.seeds} --write --only {name}"
            write_block(RESULTS, f"ladders_{name}", f"{text}\n\n`{command}`")


if __name__ == "__main__":
    main()
