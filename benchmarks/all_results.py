"""Repeat all measurements of docs/results.md that depend on the embedded model.

Each part is one of the other scripts. It runs in its own process with one thread, and its output
goes to ``OUT/PART.log``. ``benchmarks/tables/all_results.json`` names the weights that each part
was last measured with. A part that was measured with the current weights and options does not run
again. Most scripts store every finished unit (one training with its scores), so that an interrupted
call can be continued.

Several processes with ``--shard`` and the same ``--out`` divide the parts among them; the longest
parts are divided unit by unit. A last call without ``--shard`` merges their results. In ``--out``,
every model has its own folder of results, which begins with the stored units of that model. When a
part is finished, its tables replace the stored tables.

    python benchmarks/all_results.py --plan                 # list the missing parts with their time
    python benchmarks/all_results.py
    python benchmarks/all_results.py --shard 0/2 &
    python benchmarks/all_results.py --shard 1/2; wait; python benchmarks/all_results.py
    python benchmarks/all_results.py --only feature_probe generation_check
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrained import fingerprint, folder_of
from reporting import say, shard, write_text
from tables import TABLES, read, weights_of

from diffsight.errors import InputError
from diffsight.formats.durations import format_duration

HERE = Path(__file__).parent
MEASURED = TABLES / "all_results.json"
LADDERS = (
    *("vpd_semantic", "evp_depth", "vpd_referring"),
    *("meta_prompts_semantic", "meta_prompts_depth"),
)


@dataclass(frozen=True)
class Part:
    """A script with its options.

    Attributes:
        name: name of the part.
        call: script and its options.
        minutes: rough duration with one thread.
        out: option that names the working folder; None if the script has none.
        can_shard: whether the script takes ``--shard``.
        tables: option that names the stored tables, and their file names; empty if it has none.
    """

    name: str
    call: tuple[str, ...]
    minutes: float
    out: str | None = None
    can_shard: bool = False
    tables: tuple[str, ...] = ()

    def command(self, args: argparse.Namespace) -> list[str]:
        """Return the command line of the process."""
        script, *options = self.call
        options += [self.out, str(args.out / self.name)] if self.out else []
        if args.shard and self.can_shard:
            options += ["--shard", "{}/{}".format(*args.shard)]
        if self.tables:
            option, first, *others = self.tables
            options += [option, str(args.out / TABLES.name / ("" if others else first))]
        return [sys.executable, str(HERE / script), *options]


PARTS = (
    Part("feature_probe", ("feature_probe.py",), 3),
    Part("self_attention", ("self_attention.py", "--write"), 1),
    Part("concept_collapse", ("concept_collapse.py", "--steps", "120", "--write"), 6),
    Part("generation_check", ("generation_check.py", "--threads", "1"), 60, "--out"),
    Part("confidence_depth", ("confidence.py", "--task", "depth"), 25),
    Part("confidence_classes", ("confidence.py", "--task", "classes"), 40),
    Part(
        "pretraining_helps",
        (
            "pretraining_helps.py",
            *("--counts", "10", "20"),
            *("--rows", "map", "grid", "frozen-pretrained", "frozen-random", "rgb-unet"),
        ),
        180,
        "--out",
        tables=("--table", "pretraining_helps_128.csv"),
    ),
    Part("pose_rooms", ("pose_rooms.py", "--write"), 40, "--out"),
    Part(
        "ladders",
        ("ladders.py", "--write"),
        350,
        "--out",
        can_shard=True,
        tables=("--tables", *(f"ladders_{recipe}.csv" for recipe in LADDERS)),
    ),
    Part(
        "few_shot",
        ("few_shot_rooms.py",),
        280,
        "--out",
        can_shard=True,
        tables=("--tables", "few_shot_tasks.csv", "few_shot_orderings.csv"),
    ),
)


def parts_of(shard: tuple[int, int] | None, parts: Sequence[Part]) -> list[Part]:
    """Return the parts of shard I of N: all divisible parts, and its portion of the others."""
    if shard is None:
        return list(parts)
    number, count = shard
    loads = [0.0] * count
    mine = [part for part in parts if part.can_shard]
    for part in sorted(parts, key=lambda part: -part.minutes):
        if not part.can_shard:
            least = loads.index(min(loads))
            loads[least] += part.minutes
            mine += [part] if least == number else []
    return [part for part in parts if part in mine]


def is_measured(part: Part, weights: str) -> bool:
    """Return whether a part was last measured with these weights and options."""
    return read_measured().get(part.name) == _mark(part, weights)


def read_measured() -> dict[str, dict[str, object]]:
    """Return the weights and the command of every measured part, by name."""
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}


def copy_stored(part: Part, folder: Path, weights: str) -> None:
    """Copy the stored tables of a part that were measured with these weights, if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in part.tables[1:]:
        units = list(read(TABLES / name).values())
        if units and not (folder / name).exists() and weights.startswith(weights_of(units)):
            shutil.copy(TABLES / name, folder / name)


def run(part: Part, args: argparse.Namespace, weights: str) -> None:
    """Run a part, and mark it as measured unless other shards also run units of it.

    Raises:
        InputError: if the script fails; the message names its log.
    """
    log = args.out / f"{part.name}.log"
    copy_stored(part, args.out / TABLES.name, weights)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as file:
        command = part.command(args)
        done = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False)
    if done.returncode:
        raise InputError(f"{part.name} failed with exit status {done.returncode}: see {log}")
    if not (args.shard and part.can_shard):
        for name in part.tables[1:]:
            shutil.copy(args.out / TABLES.name / name, TABLES / name)
        measured = read_measured() | {part.name: _mark(part, weights)}
        write_text(MEASURED, json.dumps(measured, indent=2, sort_keys=True) + "\n")


def _mark(part: Part, weights: str) -> dict[str, object]:
    return {"weights": weights[:12], "command": " ".join(part.call)}


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, default=Path("runs/all_results"), help="working folder")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="parts to run (default: all)"
    )
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="run the portion I of N, counted from 0, without merging",
    )
    parser.add_argument("--plan", action="store_true", help="run nothing, list the missing parts")
    return parser.parse_args()


def main() -> None:
    """Run the missing parts."""
    args = parse()
    weights = fingerprint(folder_of("tiny"))
    args.out /= weights[:12]
    wanted = [part for part in PARTS if part.name in args.only]
    missing = [p for p in parts_of(args.shard, wanted) if not is_measured(p, weights)]
    shards = args.shard[1] if args.shard else 1
    times = [part.minutes / (shards if part.can_shard else 1) for part in missing]
    total = format_duration(60 * sum(times))
    say(f"weights {weights[:12]}: {len(missing)} parts to run, about {total}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(missing):
        left = format_duration(60 * sum(times[number:]))
        say(f"{number + 1}/{len(missing)} {part.name}: {' '.join(part.call)} (about {left} left)\n")
        if not args.plan:
            run(part, args, weights)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
