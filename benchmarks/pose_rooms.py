"""Train Meta Prompts for the joints of people in rooms, and compare with the mean pose.

The recipe rooms/meta_prompts_pose, several seeds; every run and the mean pose of the training
people are scored on the same new rooms: average precision at OKS 0.5, and the mean OKS. The
cost of the trainings is announced before the first one.

    python benchmarks/pose_rooms.py [--seeds 3] [--out DIR] [--write]
"""

import argparse
import json
from pathlib import Path

from pretrained import fingerprint
from pretrained import folder_of as model_folder
from reporting import RESULTS, claim_folder, interval, say, table, write_block, write_json

from diffsight import protocols
from diffsight.cli.fit import train
from diffsight.datasets.base import AbstractDataset
from diffsight.inference import Plan, Predictor
from diffsight.inference.evaluate import evaluate
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory
from diffsight.rooms import PeopleRooms

RECIPE = "rooms/meta_prompts_pose"
TESTS = 150
Scores = dict[str, dict[str, float]]  # by predictor and measure


def run(seed: int, args: argparse.Namespace, tests: AbstractDataset) -> Scores:
    """Return the scores of one training and of the mean pose, and store them."""
    path = args.out / f"seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    words = ["--recipe", RECIPE, "--out", str(args.out / f"run-{seed}"), "--seed", str(seed)]
    fitted = train([*words, "--cache", str(args.out / "cache")])
    assert fitted is not None
    scores = scores_of(fitted.model, tests)
    write_json(path, scores)
    return scores


def scores_of(model: DenseModel, tests: AbstractDataset) -> Scores:
    """Return AP50 and mean OKS in percent of a model and of its baseline."""
    predictor = Predictor(model, Plan(flip=True, batch_size=8))
    rules = {"AP50": (protocols.get("pose-v1"), "ap50", 100), "OKS": (None, "mean OKS, %", 1)}
    found: Scores = {}
    for name, (protocol, key, factor) in rules.items():
        result = evaluate(predictor, tests, protocol, baselines=model.baselines)
        for predictor_name, values in result.scores.items():
            found.setdefault(predictor_name, {})[name] = factor * values[key]
    return found


def main() -> None:
    """Train all seeds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/pose_rooms"))
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    args = parser.parse_args()
    keep_freed_memory()
    claim_folder(args.out, {"weights": fingerprint(model_folder("tiny"))})
    tests = PeopleRooms("test", TESTS, 256)
    results = [run(seed, args, tests) for seed in range(args.seeds)]
    names = list(results[0])
    body = [
        [name, *(interval([one[name][key] for one in results], ".1f") for key in ("AP50", "OKS"))]
        for name in names
    ]
    ratio = [one["model"]["OKS"] / one["mean pose"]["OKS"] for one in results]
    body.append(["model / mean pose, paired", "", interval(ratio, ".2f")])
    text = table((f"{args.seeds} seeds, {TESTS} rooms", "AP at OKS 0.5, %", "mean OKS, %"), body)
    say(text + "\n")
    if args.write:
        command = f"`python benchmarks/pose_rooms.py --seeds {args.seeds} --write`"
        write_block(RESULTS, "pose_rooms", f"{command}\n\n{text}")


if __name__ == "__main__":
    main()
