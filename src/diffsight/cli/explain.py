"""``diffsight explain``: what a model sees in an image on the way to its prediction."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.options import (
    SOME_FAILED,
    add_device,
    add_model,
    add_prompt,
    device_of,
    require_writable,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.inference.write import Job
    from diffsight.model import DenseModel


def main(argv: Sequence[str]) -> int:
    """Run the command; status 1 if an image could not be used, after all others are done."""
    args = _parser().parse_args(argv)

    from diffsight import hub
    from diffsight.inference.write import find_images

    jobs = find_images(args.images)
    require_writable(args.out)
    device = device_of(args)
    model = hub.load(args.model, device=device, trusted=args.trust, backbone=args.backbone)
    prompt = args.scene if args.expression is None else args.expression
    _check_prompt(model, args.model, prompt)
    notes = {"model": {"id": args.model, "fingerprint": model.info["fingerprint"]}}
    notes |= {"prompt": prompt}
    failed = 0
    for job in jobs:
        out = args.out / job.name if len(jobs) > 1 else args.out
        result = _explain(model, job, prompt, out, notes)
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
        description="Show what a model sees in an image: concepts.png (the probability of every "
        "class over the image), bins.png (the distribution over the classes), codebook.png (the "
        "values of the classes, where they are learned), maps.png (attention to the tokens of a "
        "prompt), as far as the model has them, and explain.json with the numbers. Several images "
        "have a folder each.",
    )
    parser.add_argument("images", nargs="+", help="files, folders or quoted patterns")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("explain"),
        metavar="DIR",
        help="folder for results (default: explain)",
    )
    add_prompt(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON per image")
    add_model(parser)
    add_device(parser)
    return parser


def _check_prompt(model: "DenseModel", source: str, prompt: str | None) -> None:
    """Refuse a prompt that the model cannot use, before the first image."""
    try:
        model.method.check_prompt(prompt)
    except InputError as error:
        raise InputError(f"{source}: {error} (--expression, --scene)") from None


def _explain(
    model: "DenseModel", job: "Job", prompt: str | None, out: Path, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the contents of ``explain.json``, or an ``error`` where the image cannot be used."""
    from diffsight.datasets.files import read_image
    from diffsight.inference.explain import explain, write_explanation

    about = {"image": str(job.image), **notes}
    try:
        found = explain(model, read_image(job.image), prompt)
    except InputError as error:
        message = str(error)
        named = message if str(job.image) in message else f"{job.image}: {message}"
        return {"image": str(job.image), "error": named}
    return write_explanation(found, out, about)


def _summary(result: Mapping[str, Any]) -> str:
    """Return a line about the most frequent class, or about the strongest map."""
    if "classes" in result:
        entropy = result["entropy_nats"]
        first = max(result["classes"], key=lambda row: row["share"])
        return (
            f"entropy {entropy['mean']:.2f} of {entropy['uniform']:.2f} nats, largest class "
            f"{first['name']} ({first['share']:.0%})"
        )
    maps = result.get("maps", [])
    return f"{len(maps)} attention maps" if maps else "no classes and no attention maps"
