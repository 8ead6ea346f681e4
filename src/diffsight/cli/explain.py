"""``diffsight explain``: draw class probabilities and attention maps of an image."""

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


@command("explain", exclusive=("scene", "expression"))
def main(
    images: options.Images,
    *,
    model: options.Model,
    out: options.Folder = Path("explain"),
    prompt: options.PromptOptions,
    json: bool = False,
    network: options.ModelOptions,
) -> int:
    """Draw class probabilities and attention maps of an image.

    The command writes, if the model has them: concepts.png (a probability map per class), bins.png
    (the distribution over the classes), codebook.png (the trained values of the classes), maps.png
    (attention to the tokens of the prompt), and rearranged.png (the products of the features with
    each prompt, for Meta Prompts). explain.json has the numbers. With several images, each has its
    own folder. If an image cannot be used, the others are still explained, and the exit status is
    1.

    Args:
        out: folder for the pictures and explain.json.
        prompt: text prompt of all images.
        json: print the contents of explain.json, one line per image.
        network: backbone and device of the model.

    Example:
        diffsight explain photo.jpg --model mine.safetensors --out explain
    """
    from diffsight.inference.write import find_images

    jobs = find_images(images)
    options.require_writable(out)
    loaded = network.load(model)
    try:
        loaded.check_prompt(prompt.text)
    except InputError as error:
        raise InputError(f"{model}: {error} (--expression, --scene)") from None
    about = {"id": model, "fingerprint": loaded.info["fingerprint"]}
    notes = {"model": about, "prompt": prompt.text}
    failed = 0
    for job in jobs:
        folder = out / job.name if len(jobs) > 1 else out
        result = _explain(loaded, job, prompt.text, folder, notes)
        if "error" in result:
            failed += 1
            sys.stderr.write(f"{result['error']}\n")
        if json:
            write_json({"folder": str(folder), **result})
        elif "error" not in result:
            sys.stdout.write(f"{job.image}: {_summary(result)} -> {folder}\n")
    return options.SOME_FAILED if failed else 0


def _explain(
    model: "DenseModel", job: "Job", prompt: str | None, out: Path, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the contents of ``explain.json``, or an ``error`` if the image cannot be used.

    Raises:
        InputError: if the disk is full.
    """
    from diffsight.datasets.rig_file import read_image_or_rig
    from diffsight.inference.explain import explain, write_explanation
    from diffsight.inference.run_images import error_record, unwritten_record

    try:
        image, rig = read_image_or_rig(job.image, requires_rig=model.reads_rig)
        explanation = explain(model, image, prompt, rig)
    except InputError as error:
        return error_record(job, error)
    try:
        return write_explanation(explanation, out, {"image": str(job.image), **notes})
    except InputError as error:
        return unwritten_record(job, out, error)


def _summary(result: Mapping[str, Any]) -> str:
    """Return a line about the most frequent class, or the number of attention maps."""
    if "classes" in result:
        entropy = result["entropy_nats"]
        first = max(result["classes"], key=lambda row: row["weight"])
        return (
            f"entropy {entropy['mean']:.2f} of {entropy['uniform']:.2f} nats, largest class "
            f"{first['class']} ({first['weight']:.0%})"
        )
    maps = result.get("maps", [])
    return f"{len(maps)} attention maps" if maps else "no classes and no attention maps"
