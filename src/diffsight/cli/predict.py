"""``diffsight predict``: depth maps in millimetres, and what they mean, for images of one's own."""

import argparse
import itertools
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.options import (
    SOME_FAILED,
    add_model,
    add_plan,
    predictor_of,
    require_writable,
    tell,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from diffsight.inference import Predictor
    from diffsight.inference.write import Job

LISTED = 5
Report = Callable[[Path, "Job", Mapping[str, Any]], None]
Prompts = Mapping[Path, str | None]  # by the names of the results


@dataclass(frozen=True)
class _Loaded:
    """A model ready to run, the folder of its results, and what is to be said beside them."""

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
    prompts = _prompts(args, jobs)
    loaded, bases = _load(args, prompts)
    failed = 0
    with _progress(console) as bar:
        row = bar.add_task("predicting", total=len(jobs) * len(loaded))

        def report(out: Path, job: "Job", result: Mapping[str, Any]) -> None:
            nonlocal failed
            bar.advance(row)
            if "error" in result:
                failed += 1
                tell(console, result["error"])
            if args.json:
                line = {"folder": str((out / job.name).parent), **result}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()

        if len(loaded) == 1:
            _run(jobs, loaded[0], prompts, report)
        else:
            _run_together(jobs, loaded, bases.values(), prompts, report)
    whole = len(jobs) * len(loaded)
    what = "images" if len(loaded) == 1 else "predictions"
    summary = f"{whole - failed} of {whole} {what} -> {args.out}"
    tell(console, summary)
    return SOME_FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight predict",
        description="Predict on images. Per image NAME: NAME_depth.png (16-bit millimetres, 0 = "
        "unknown), NAME_classes.png (ids) or NAME_values.npy; NAME_colour.png; and NAME.json, "
        "which says what the numbers mean. Several tasks write into a folder each.",
    )
    parser.add_argument("images", nargs="+", help="files, folders or quoted patterns")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--scene", metavar="NAME", help="scene type, such as kitchen (default: none)")
    told.add_argument(
        "--expression", metavar="TEXT", help="what to look for, for models that find what it says"
    )
    told.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="a sentence per image, as `diffsight caption --images` writes them",
    )
    parser.add_argument(
        "--classes", metavar="A,B,...", help="answer with these classes of the model only"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per image")
    add_model(parser, tasks=True)
    add_plan(parser)
    return parser


def _load(args: argparse.Namespace, prompts: Prompts) -> "tuple[list[_Loaded], dict[str, Any]]":
    """All models before the first image, and what tasks stand on and share."""
    sources = [args.model] if args.model else args.task
    for path in map(Path, args.task or ()):
        if not path.is_file():
            raise InputError(f"{path}: no such file: make a task with `diffsight adapt`")
    if args.backbone and args.model and not Path(args.model).is_file():
        raise InputError("--backbone is of tasks: leave it out with --model")
    bases: dict[str, Any] = {}
    loaded = []
    for source in sources:
        predictor, config = predictor_of(args, source, bases)
        _ask(args, predictor, source, prompts)
        out = args.out / Path(source).stem if len(sources) > 1 else args.out
        loaded.append(_Loaded(predictor, out, _notes(args, source, config, predictor)))
    if len({one.out for one in loaded}) < len(loaded):
        raise InputError("two tasks have the same name, and so would their folders: rename one")
    return loaded, bases


def _prompts(args: argparse.Namespace, jobs: Sequence["Job"]) -> Prompts:
    """What the model is told of every image, by the names of the results.

    Raises:
        InputError: if images have no caption in the file of captions.
    """
    from diffsight.datasets.captioned import PHOTOS, photo_key, read_captions

    if args.captions is None:
        prompt = args.scene if args.expression is None else args.expression
        return {job.name: prompt for job in jobs}
    known = read_captions(args.captions, data=PHOTOS).texts
    prompts = {job.name: known.get(photo_key(job.image, args.captions)) for job in jobs}
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


def _sentences(args: argparse.Namespace) -> bool:
    return args.expression is not None or args.captions is not None


def _classes(args: argparse.Namespace) -> list[str]:
    return [name.strip() for name in args.classes.split(",")]


def _ask(args: argparse.Namespace, predictor: "Predictor", source: str, prompts: Prompts) -> None:
    """What the options ask of a model, before the first image.

    Raises:
        InputError: if it cannot answer.
    """
    from diffsight.inference.evaluate import reads_sentences
    from diffsight.inference.pipeline import require_sentence
    from diffsight.methods.prompted import AbstractPrompted
    from diffsight.tasks.answers import Answering

    task = predictor.model.task
    asks = reads_sentences(predictor.model)
    if asks and args.captions is None and not (args.expression or "").strip():
        what = "finds what a sentence says" if task.asks else "reads a caption of the image"
        raise InputError(f"{source} {what}: give one with --expression, or a file with --captions")
    if _sentences(args) and not asks:
        option = "--expression" if args.captions is None else "--captions"
        raise InputError(f"{source} takes no sentence: leave {option} out")
    for prompt in set(prompts.values()):
        if prompt is None and args.captions is not None:
            continue  # of an image that cannot be read
        try:
            require_sentence(predictor.model, prompt)
        except InputError as error:
            where = "" if args.captions is None else f"{args.captions}: "
            raise InputError(f"{where}{error}") from None
    if args.scene is not None and not isinstance(predictor.model.method, AbstractPrompted):
        raise InputError(f"{source} is told nothing about an image: leave --scene out")
    if args.classes is not None:
        if not isinstance(task, Answering):
            raise InputError(f"{source} predicts no classes of its own: leave --classes out")
        predictor.model.task = task.only(_classes(args))


def _run_together(
    jobs: Sequence["Job"],
    loaded: Sequence[_Loaded],
    bases: Iterable[Any],
    prompts: Prompts,
    report: Report,
) -> None:
    """Image by image, so that what the models share is computed once."""
    for job in jobs:
        for one in loaded:
            image = _read(job, one.predictor)
            if isinstance(image, str):
                report(one.out, job, {"image": str(job.image), "error": image})
                continue
            if one is loaded[0]:
                for base in bases:
                    base.backbone.remember(one.predictor.plan.passes(*image.shape[-2:]))
            prediction = one.predictor.one(image, prompts[job.name])
            _write(prediction, one, job, prompts, report)


def _run(jobs: Sequence["Job"], one: _Loaded, prompts: Prompts, report: Report) -> None:
    """Predict and write one image after the other, those that cannot be read left out."""
    waiting: deque[Job] = deque()

    def images() -> Iterator["Tensor"]:
        for job in jobs:
            image = _read(job, one.predictor)
            if isinstance(image, str):
                report(one.out, job, {"image": str(job.image), "error": image})
            else:
                waiting.append(job)
                yield image

    told = (prompts[waiting[-1].name] for _ in itertools.count())  # asked for after each image
    for prediction in one.predictor(images(), told):
        _write(prediction, one, waiting.popleft(), prompts, report)


def _write(prediction: Any, one: _Loaded, job: "Job", prompts: Prompts, report: Report) -> None:
    from diffsight.inference.write import Occupied, write_prediction

    sentence = prompts[job.name] if one.notes["scene"] is None else None
    notes = {**one.notes, "expression": sentence}
    picture = one.predictor.model.task.draw(prediction)
    try:
        report(one.out, job, write_prediction(prediction, picture, one.out, job, notes))
    except Occupied as error:
        report(one.out, job, {"image": str(job.image), "error": str(error)})


def _read(job: "Job", predictor: "Predictor") -> "Tensor | str":
    """The image, or the line that says why it cannot be used."""
    from diffsight.datasets.files import read_image

    try:
        image = read_image(job.image)
        height, width = image.shape[-2:]
        predictor.plan.working_hw(height, width)
    except InputError as error:
        message = str(error)
        return message if str(job.image) in message else f"{job.image}: {message}"
    return image


def _notes(
    args: argparse.Namespace, model: str, config: Mapping[str, Any], predictor: "Predictor"
) -> dict[str, Any]:
    """What the sidecar says beside the numbers."""
    import diffsight

    evaluated = [
        {
            "protocol": result["protocol"]["name"],
            "data": result.get("data"),
            "plan": result["plan"],
            "metrics": result["metrics"],
        }
        for result in config.get("info", {}).get("results", [])
    ]
    return {
        "model": {"id": model, "fingerprint": config.get("fingerprint")},
        "plan": predictor.plan.describe(),
        "scene": args.scene,
        # `classes` is the file of ids
        "only_classes": None if args.classes is None else _classes(args),
        "evaluated": evaluated,
        "diffsight_version": diffsight.__version__,
    }


def _progress(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    return Progress(*columns, console=console, disable=not console.is_terminal)
