"""``diffsight explain``: what a model sees in an image on the way to its prediction."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli import options
from diffsight.cli.console import write_json
from diffsight.cli.flags import command
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.inference.write import Job
    from diffsight.model import DenseModel


@command("explain", either=("scene", "expression"))
def main(
    images: options.Images,
    *,
    model: options.Model,
    out: options.Folder = Path("explain"),
    prompt: options.PromptOptions,
    json: bool = False,
    network: options.ModelOptions,
) -> int:
    """Show what a model sees in an image.

    It writes concepts.png (the probability of every class over the image), bins.png (the
    distribution over the classes), codebook.png (the values of the classes, where they are
    learned), maps.png (attention to the tokens of a prompt), as far as the model has them, and
    explain.json with the numbers. Several images have a folder each. The exit status is 1 if an
    image could not be used; all others are done.

    Args:
        out: folder for results.
        prompt: the prompt of all images.
        json: print one line of JSON per image.
        network: where the parts of the model are, and where it runs.

    Example:
        diffsight explain photo.jpg --model mine.safetensors --out explain
    """
    from diffsight.inference.write import find_images

    jobs = find_images(images)
    options.require_writable(out)
    loaded = network.load(model)
    try:
        loaded.method.check_prompt(prompt.text)
    except InputError as error:
        raise InputError(f"{model}: {error} (--expression, --scene)") from None
    about = {"id": model, "fingerprint": loaded.info["fingerprint"]}
    notes = {"model": about, "prompt": prompt.text}
    failed = 0
    for job in jobs:
        folder = out / job.name if len(jobs) > 1 else out
        result = _explained(loaded, job, prompt.text, folder, notes)
        if "error" in result:
            failed += 1
            sys.stderr.write(f"{result['error']}\n")
        if json:
            write_json({"folder": str(folder), **result})
        elif "error" not in result:
            sys.stdout.write(f"{job.image}: {_summary(result)} -> {folder}\n")
    return options.SOME_FAILED if failed else 0


def _explained(
    model: "DenseModel", job: "Job", prompt: str | None, out: Path, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the contents of ``explain.json``, or an ``error`` where the image cannot be used."""
    from diffsight.datasets.rig_file import read_image_or_rig
    from diffsight.inference.explain import explain, write_explanation

    try:
        image, rig = read_image_or_rig(job.image, wants_rig=model.reads_rig)
        explanation = explain(model, image, prompt, rig)
    except InputError as error:
        return options.error_of(job, error)
    return write_explanation(explanation, out, {"image": str(job.image), **notes})


def _summary(result: Mapping[str, Any]) -> str:
    """Return a line about the most frequent class, or about the strongest map."""
    if "classes" in result:
        entropy = result["entropy_nats"]
        first = max(result["classes"], key=lambda row: row["weight"])
        return (
            f"entropy {entropy['mean']:.2f} of {entropy['uniform']:.2f} nats, largest class "
            f"{first['class']} ({first['weight']:.0%})"
        )
    maps = result.get("maps", [])
    return f"{len(maps)} attention maps" if maps else "no classes and no attention maps"
