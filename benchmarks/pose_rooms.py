"""Train Meta Prompts to find the joints of people in rooms, and compare it with the mean pose.

The recipe rooms/meta_prompts_pose is trained with several seeds. Every run, and the mean pose of
the people in its training images, are scored on the same unseen rooms: by average precision at an
object keypoint similarity (OKS) of 0.5, and by mean OKS. Finished runs are stored in ``--out`` and
are not repeated.

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
Scores = dict[str, dict[str, float]]  # scores by predictor (model or mean pose) and measure


def run(seed: int, args: argparse.Namespace, tests: AbstractDataset) -> Scores:
    """Return the scores of one run and of the mean pose; train the model if none are stored."""
    path = args.out / f"seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    options = ["--recipe", RECIPE, "--out", str(args.out / f"run-{seed}"), "--seed", str(seed)]
    fitted = train([*options, "--cache", str(args.out / "cache")])
    assert fitted is not None
    scores = scores_of(fitted.model, tests)
    write_json(path, scores)
    return scores


def scores_of(model: DenseModel, tests: AbstractDataset) -> Scores:
    """Return AP50 and mean OKS of a model and of its baseline, in percent."""
    predictor = Predictor(model, Plan(flip=True, batch_size=8))
    rules = {"AP50": (protocols.get("pose-v1"), "ap50", 100), "OKS": (None, "mean OKS, %", 1)}
    scores: Scores = {}
    for name, (protocol, key, factor) in rules.items():
        result = evaluate(predictor, tests, protocol, baselines=model.baselines)
        for predictor_name, values in result.scores.items():
            scores.setdefault(predictor_name, {})[name] = factor * values[key]
    return scores


def main() -> None:
    """Train with all seeds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/pose_rooms"), help="working folder")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    args = parser.parse_args()
    keep_freed_memory()
    weights = fingerprint(model_folder("tiny"))
    claim_folder(args.out, {"weights": weights})
    tests = PeopleRooms("test", TESTS, 256)
    results = [run(seed, args, tests) for seed in range(args.seeds)]
    names = list(results[0])
    body = [
        [name, *(interval([run[name][key] for run in results], ".1f") for key in ("AP50", "OKS"))]
        for name in names
    ]
    ratio = [scores["model"]["OKS"] / scores["mean pose"]["OKS"] for scores in results]
    body.append(["model / mean pose, paired", "", interval(ratio, ".2f")])
    text = table((f"{args.seeds} seeds, {TESTS} rooms", "AP at OKS 0.5, %", "mean OKS, %"), body)
    say(text + "\n")
    if args.write:
        command = f"`python benchmarks/pose_rooms.py --seeds {args.seeds} --write`"
        write_block(RESULTS, "pose_rooms", f"{command}\n\nWeights {weights[:12]}.\n\n{text}")


if __name__ == "__main__":
    main()
