"""``diffsight explain``: what a task sees in an image on the way to its answer."""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.options import (
    SOME_FAILED,
    add_backbone,
    add_device,
    device_of,
    require_writable,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.hub.task_file import Task
    from diffsight.inference.write import Job


def main(argv: Sequence[str]) -> int:
    """Run the command; status 1 if an image could not be used, after all others are done."""
    args = _parser().parse_args(argv)

    from diffsight.hub.task_file import load_task
    from diffsight.inference.write import find_images

    jobs = find_images(args.images)
    require_writable(args.out)
    device = device_of(args)
    task = load_task(args.task, args.backbone)
    task.model.to(device)
    fingerprint = hashlib.sha256(args.task.read_bytes()).hexdigest()
    notes = {"task": {"id": str(args.task), "fingerprint": fingerprint}}
    failed = 0
    for job in jobs:
        out = args.out / job.name if len(jobs) > 1 else args.out
        result = _explain(task, job, out, notes)
        if "error" in result:
            failed += 1
            sys.stderr.write(f"{result['error']}\n")
        if args.json:
            sys.stdout.write(json.dumps({"folder": str(out), **result}) + "\n")
        elif "error" not in result:
            sys.stdout.write(f"{job.image}: {_summary(result)} -> {out}\n")
    return SOME_FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight explain",
        description="What a task sees in an image: concepts.png (every class's probability over "
        "the image), codebook.png (what the classes are worth, where that is learned), bins.png "
        "(the distribution over all classes), and explain.json with the numbers. Several images "
        "have a folder each.",
    )
    parser.add_argument("images", nargs="+", help="files, folders or quoted patterns")
    parser.add_argument(
        "--task",
        type=Path,
        required=True,
        metavar="FILE",
        help="a file that `diffsight adapt` wrote",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("explain"),
        metavar="DIR",
        help="folder for results (default: explain)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per image")
    add_backbone(parser)
    add_device(parser)
    return parser


def _explain(task: "Task", job: "Job", out: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of ``explain.json``, or an ``error`` where the image cannot be used."""
    from diffsight.datasets.files import read_image
    from diffsight.inference.explain import explain, write_explanation

    about = {"image": str(job.image), **notes}
    try:
        found = explain(task, read_image(job.image))
    except InputError as error:
        message = str(error)
        named = message if str(job.image) in message else f"{job.image}: {message}"
        return {"image": str(job.image), "error": named}
    return write_explanation(task, found, out, about)


def _summary(result: Mapping[str, Any]) -> str:
    entropy = result["entropy_nats"]
    first = max(result["classes"], key=lambda row: row["share"])
    return (
        f"entropy {entropy['mean']:.2f} of {entropy['uniform']:.2f} nats, most of all "
        f"{first['name']} ({first['share']:.0%})"
    )
