"""``diffsight predict``: run saved models on images; arrays with their meaning, and pictures."""

import argparse
import itertools
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.options import (
    SOME_FAILED,
    add_device,
    add_dtype,
    add_model,
    add_plan,
    add_prompt,
    load_predictor,
    require_writable,
    write_line,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from diffsight.inference import Predictor
    from diffsight.inference.write import Job
    from diffsight.tasks import Prediction

LISTED = 5
Report = Callable[[Path, "Job", Mapping[str, Any]], None]
Prompts = Mapping[Path, str | None]  # by the names of the results


@dataclass(frozen=True)
class _Loaded:
    """A model ready to run, the folder of its results, and what the JSON files say about it."""

    predictor: "Predictor"
    out: Path
    notes: Mapping[str, Any]


def main(argv: Sequence[str]) -> int:
    """Run the command; status 1 if an image could not be used, after all others are done."""
    args = _parser().parse_args(argv)

    from rich.console import Console

    from diffsight.inference.write import find_images

    console = Console(stderr=True)
    jobs = find_images(args.images)
    require_writable(args.out)
    prompts = _read_prompts(args, jobs)
    models = _load(args, prompts)
    failed = beyond = 0
    with _progress(console) as bar:
        row = bar.add_task("predicting", total=len(jobs) * len(models))

        def report(out: Path, job: "Job", result: Mapping[str, Any]) -> None:
            nonlocal failed, beyond
            bar.advance(row)
            beyond += "metres" in result
            if "error" in result:
                failed += 1
                write_line(console, result["error"])
            if args.json:
                line = {"folder": str((out / job.name).parent), **result}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()

        if len(models) == 1:
            _run(jobs, models[0], prompts, report)
        else:
            _run_together(jobs, models, prompts, report)
    whole = len(jobs) * len(models)
    what = "images" if len(models) == 1 else "predictions"
    write_line(console, f"{whole - failed} of {whole} {what} -> {args.out}")
    if beyond:
        write_line(console, f"{beyond} with depths that 16 bits of mm do not hold: NAME_metres.npy")
    return SOME_FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight predict",
        description="Predict on images. For an image NAME it writes NAME_depth.png (16-bit "
        "millimetres, 0 = unknown), NAME_classes.png (ids), NAME_mask.png or NAME_values.npy; "
        "NAME_colour.png, a picture; and NAME.json, which says what the numbers mean. Several "
        "models write into one folder each.",
    )
    parser.add_argument("images", nargs="+", help="files, folders or quoted patterns")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    add_prompt(parser).add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="file with a sentence for every image, as `diffsight caption --images` writes it",
    )
    parser.add_argument(
        "--classes",
        metavar="A,B,...",
        help="predict only these classes of the model (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per image")
    add_model(parser, several=True)
    add_device(parser)
    add_dtype(parser)
    add_plan(parser)
    return parser


def _load(args: argparse.Namespace, prompts: Prompts) -> list[_Loaded]:
    """Load all models before the first image; they share frozen parts and latents."""
    from diffsight.inference.predictor import SharedLatents

    sources: list[str] = args.model
    latents = SharedLatents() if len(sources) > 1 else None
    shared: dict[str, Any] = {}
    models = []
    for source in sources:
        predictor = load_predictor(args, source, shared=shared, latents=latents)
        _check_options(args, predictor, source, prompts)
        out = args.out / _name(source) if len(sources) > 1 else args.out
        models.append(_Loaded(predictor, out, _notes(args, source, predictor)))
    if len({one.out for one in models}) < len(models):
        raise InputError("two models have the same name, so their folders would too: rename one")
    return models


def _name(source: str) -> str:
    """Return the name of a model's results: of its file, or of its folder or training."""
    path = Path(source)
    if path.is_file():
        return path.stem
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def _read_prompts(args: argparse.Namespace, jobs: Sequence["Job"]) -> Prompts:
    """Return the prompt of every image, by the names of the results.

    Raises:
        InputError: if images have no caption in the file of captions.
    """
    from diffsight.datasets.captioned import PHOTOS, photo_key, read_captions

    if args.captions is None:
        prompt = args.scene if args.expression is None else args.expression
        return {job.name: prompt for job in jobs}
    texts = read_captions(args.captions, data=PHOTOS).texts
    prompts = {job.name: texts.get(photo_key(job.image, args.captions)) for job in jobs}
    missing = [str(job.image) for job in jobs if prompts[job.name] is None and _is_image(job.image)]
    if missing:
        more = ", ..." if len(missing) > LISTED else ""
        raise InputError(
            f"{args.captions}: no caption for {len(missing)} of {len(jobs)} images: "
            f"{', '.join(missing[:LISTED])}{more}: write the missing ones with "
            f"`diffsight caption --images ... --out {args.captions}`"
        )
    for job in jobs:
        if prompts[job.name] is not None and not (prompts[job.name] or "").strip():
            raise InputError(
                f"{args.captions}: the caption of {photo_key(job.image, args.captions)} is empty: "
                "write one there"
            )
    return prompts


def _is_image(path: Path) -> bool:
    from diffsight.datasets.files import read_image

    try:
        read_image(path)
    except InputError:
        return False
    return True


def _classes(args: argparse.Namespace) -> list[str] | None:
    return None if args.classes is None else [n.strip() for n in args.classes.split(",")]


def _check_options(
    args: argparse.Namespace, predictor: "Predictor", source: str, prompts: Prompts
) -> None:
    """Refuse prompts and classes that a model cannot use, before the first image.

    Raises:
        InputError: if there is one.
    """
    model = predictor.model
    if args.captions is None and model.requires_prompt and not (args.expression or "").strip():
        what = "finds what a sentence describes" if model.task.requires_prompt else "reads captions"
        raise InputError(f"{source} {what}: give one with --expression, or a file with --captions")
    if not model.requires_prompt:
        for option in ("expression", "captions"):
            if getattr(args, option) is not None:
                raise InputError(f"{source} takes no sentence: leave --{option} out")
    if args.scene is not None and not model.method.accepts_prompt:
        raise InputError(f"{source} takes no scene type: leave --scene out")
    for prompt in set(prompts.values()):
        if prompt is None and args.captions is not None:
            continue  # of an image that cannot be read
        try:
            model.method.check_prompt(prompt)
        except InputError as error:
            where = "" if args.captions is None else f"{args.captions}: "
            raise InputError(f"{where}{error}") from None
    if (classes := _classes(args)) is not None:
        try:
            model.task = model.task.restrict_to(classes)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None


def _run_together(
    jobs: Sequence["Job"], models: Sequence[_Loaded], prompts: Prompts, report: Report
) -> None:
    """Predict image by image, so that what the models share is computed once."""
    for job in jobs:
        for one in models:
            image = _read(job, one.predictor)
            if isinstance(image, str):
                report(one.out, job, {"image": str(job.image), "error": image})
                continue
            prediction = one.predictor.one(image, prompts[job.name])
            _write(prediction, image, one, job, prompts, report)


def _run(jobs: Sequence["Job"], one: _Loaded, prompts: Prompts, report: Report) -> None:
    """Predict and write one image after the other; those that cannot be read are skipped."""
    waiting: deque[tuple[Job, Tensor]] = deque()

    def images() -> Iterator["Tensor"]:
        for job in jobs:
            image = _read(job, one.predictor)
            if isinstance(image, str):
                report(one.out, job, {"image": str(job.image), "error": image})
            else:
                waiting.append((job, image))
                yield image

    # evaluated after each image
    texts = (prompts[waiting[-1][0].name] for _ in itertools.count())
    for prediction in one.predictor(images(), texts):
        job, image = waiting.popleft()
        _write(prediction, image, one, job, prompts, report)


def _write(
    prediction: "Prediction",
    image: "Tensor",
    one: _Loaded,
    job: "Job",
    prompts: Prompts,
    report: Report,
) -> None:
    from diffsight.inference.write import Occupied, write_prediction

    sentence = prompts[job.name] if one.notes["scene"] is None else None
    notes = {**one.notes, "expression": sentence}
    try:
        report(one.out, job, write_prediction(prediction, one.out, job, notes, image))
    except Occupied as error:
        report(one.out, job, {"image": str(job.image), "error": str(error)})


def _read(job: "Job", predictor: "Predictor") -> "Tensor | str":
    """Return the image, or a line with the reason why it cannot be used."""
    from diffsight.datasets.files import read_image

    try:
        image = read_image(job.image)
        height, width = image.shape[-2:]
        predictor.plan.working_hw(height, width)
    except InputError as error:
        message = str(error)
        return message if str(job.image) in message else f"{job.image}: {message}"
    return image


def _notes(args: argparse.Namespace, source: str, predictor: "Predictor") -> dict[str, Any]:
    """Return what the JSON file of a prediction says about the model and its options."""
    import diffsight

    info = predictor.model.info
    evaluated = [
        {
            "protocol": result["protocol"]["name"],
            "data": result.get("data"),
            "plan": result["plan"],
            "metrics": result["metrics"],
        }
        for result in info.get("results", [])
    ]
    return {
        "model": {"id": source, "fingerprint": info.get("fingerprint")},
        "plan": predictor.plan.describe(),
        "scene": args.scene,
        # `classes` is the file of ids
        "only_classes": _classes(args),
        "evaluated": evaluated,
        "diffsight_version": diffsight.__version__,
    }


def _progress(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    return Progress(*columns, console=console, disable=not console.is_terminal)
