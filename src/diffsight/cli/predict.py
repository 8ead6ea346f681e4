"""``diffsight predict``: run saved models on images; write arrays, pictures and metadata."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import progress, write_json, write_line
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError, TooLargeError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from diffsight.inference import Predictor
    from diffsight.inference.compare_steps import StepComparison
    from diffsight.inference.write import Job
    from diffsight.rig import Rig
    from diffsight.tasks import Prediction
    from diffsight.types import People

MAX_LISTED = 5  # images without a caption in a message
Report = Callable[[Path, "Job", Mapping[str, Any]], None]
Prompts = Mapping[Path, str | None]  # by the path of the result without its ending


@dataclass(frozen=True)
class _Request:
    """Images, prompts and options of a prediction with several models."""

    jobs: "Sequence[Job]"
    prompts: Prompts
    prompt: options.PromptOptions
    people: options.PeopleOptions
    captions: Path | None
    classes: tuple[str, ...] | None
    confidence: float | None
    steps: tuple[int, ...]


@dataclass(frozen=True)
class _Loaded:
    """A predictor, the folder of its results, and metadata for their JSON files."""

    predictor: "Predictor"
    out: Path
    notes: Mapping[str, Any]
    find_people: options.FindPeople | None
    steps: Sequence[int] = ()

    def predict(
        self,
        images: "Iterator[Tensor]",
        prompts: Iterator[str | None],
        people: "Iterator[People | None]",
        rigs: "Iterator[Rig | None]",
    ) -> "Iterator[tuple[Prediction, StepComparison | None]]":
        """Yield the prediction of every image, and its comparison of several numbers of steps."""
        if len(self.steps) < 2:
            yield from zip(self.predictor(images, prompts, people, rigs), itertools.repeat(None))
            return
        from diffsight.inference.compare_steps import compare_steps

        for image, prompt, boxes, rig in zip(images, prompts, people, rigs, strict=False):
            compared = compare_steps(self.predictor, self.steps, image, prompt, boxes, rig)
            yield compared.predictions[-1], compared


@command("predict", exclusive=("scene", "expression", "captions"))
def main(
    images: options.Images,
    *,
    model: Annotated[Sequence[str], Flag("PATH|ID", repeatable=True)],
    out: options.Folder,
    prompt: options.PromptOptions,
    people: options.PeopleOptions,
    captions: options.File | None = None,
    classes: tuple[str, ...] | None = None,
    confidence: float | None = None,
    steps: tuple[int, ...] = (),
    json: bool = False,
    run: options.RunOptions,
    plan: partial[Plan],
) -> int:
    """Run saved models on images.

    For an image NAME, the command writes the prediction, a picture of it (NAME_colour.png), and
    NAME.json, which explains the numbers. The prediction is NAME_depth.png (16-bit millimetres, 0 =
    unknown), NAME_classes.png (class ids), NAME_mask.png, NAME_keypoints.npy or NAME_values.npy. A
    model of bird's-eye-view maps reads the JSON file of a camera rig instead of an image, and
    writes NAME_map.npy. If there are several models, each writes to its own folder. If an image
    cannot be used, the others are still predicted, and the exit status is 1.

    Args:
        model: saved model: its folder or .safetensors file, the output folder of `diffsight fit`,
            or a hub id; repeat the option to run several models.
        out: folder for the predictions.
        prompt: prompt of all images.
        people: boxes around people, for models that predict joints.
        captions: JSON file with a caption per image, as `diffsight caption --images` writes it.
        classes: predict only these classes of the model (default: all).
        confidence: also write intervals (for classes: sets of classes) that contain the truth for
            this fraction of the pixels of a new image on average, such as 0.9, and a mask of the
            pixels where the model abstains.
        steps: number of steps of a method that refines its output step by step, such as DDP
            (default: the number that the model stores). With several, such as 1,3,10, the
            prediction has the largest number, and NAME_steps.png shows all with their run times.
        json: print the metadata as JSON, one line per image.
        run: backbone, device, dtype and image size of the models.
        plan: processing of an image, which is recorded in every result.

    Example:
        diffsight predict photos --model mine.safetensors --out predictions
    """
    from diffsight.inference.write import find_images

    jobs = find_images(images)
    options.require_writable(out)
    prompts = _read_prompts(jobs, prompt, captions)
    if steps and min(steps) < 1:
        raise InputError(f"--steps must be at least 1, got {min(steps)}")
    request = _Request(jobs, prompts, prompt, people, captions, classes, confidence, steps)
    models = _load(model, out, request, run, plan)
    failed, out_of_range, total = 0, 0, len(jobs) * len(models)
    with progress("predicting", total) as advance:

        def report(folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
            nonlocal failed, out_of_range
            advance()
            out_of_range += "metres" in result
            if "error" in result:
                failed += 1
                write_line(result["error"])
            elif result.get("people") == []:
                write_line(f"{job.image}: no person was found: give boxes with --boxes FILE")
            if json:
                write_json({"folder": str((folder / job.name).parent), **result})

        # several models run image by image, so that features of a common backbone are computed once
        for part in [jobs] if len(models) == 1 else [[job] for job in jobs]:
            for one in models:
                _run(part, one, prompts, report)
    unit = "images" if len(models) == 1 else "predictions"
    write_line(f"{total - failed} of {total} {unit} -> {out}")
    if out_of_range:
        write_line(f"{out_of_range} have depths beyond 65.535 m: see NAME_metres.npy")
    return options.SOME_FAILED if failed else 0


def _load(
    sources: Sequence[str],
    out: Path,
    request: _Request,
    run: options.RunOptions,
    plan: partial[Plan],
) -> list[_Loaded]:
    """Load all models before the first image, with common frozen parts and latents."""
    from diffsight.inference.shared_latents import SharedLatents

    latents = SharedLatents() if len(sources) > 1 else None
    shared: dict[str, Any] = {}
    models = []
    people_finder: options.FindPeople | None = None
    for source in sources:
        complete = partial(plan, steps=max(request.steps, default=None))
        predictor = run.load_predictor(source, complete, shared=shared, latents=latents)
        _check_request(request, predictor, source)
        folder = out / _model_name(source) if len(sources) > 1 else out
        has_people = predictor.model.task.has_regions
        if has_people and people_finder is None:
            people_finder = request.people.finder(request.jobs, str(predictor.device))
        notes = _notes(request, source, predictor)
        finder = people_finder if has_people else None
        models.append(_Loaded(predictor, folder, notes, finder, request.steps))
    if len({one.out for one in models}) < len(models):
        raise InputError("two models have the same name, and so the same output folder: rename one")
    return models


def _model_name(source: str) -> str:
    """Return the name of the folder for a model's results."""
    path = Path(source)
    if path.is_file():
        return path.stem
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def _read_prompts(
    jobs: "Sequence[Job]", options: options.PromptOptions, captions: Path | None
) -> dict[Path, str | None]:
    """Return the prompt of every image, by the path of its result.

    Raises:
        InputError: if the file of captions lacks an image.
    """
    from diffsight.datasets.captioned import PHOTOS, photo_key, read_captions

    if captions is None:
        return {job.name: options.text for job in jobs}
    texts = read_captions(captions, data=PHOTOS).texts
    prompts = {job.name: texts.get(photo_key(job.image, captions)) for job in jobs}
    missing = [str(job.image) for job in jobs if prompts[job.name] is None and _is_image(job.image)]
    if missing:
        more = ", ..." if len(missing) > MAX_LISTED else ""
        raise InputError(
            f"{captions}: no caption for {len(missing)} of {len(jobs)} images: "
            f"{', '.join(missing[:MAX_LISTED])}{more}: write the missing ones with "
            f"`diffsight caption --images ... --out {captions}`"
        )
    for job in jobs:
        text = prompts[job.name]
        if text is not None and not text.strip():
            key = photo_key(job.image, captions)
            raise InputError(f"{captions}: the caption of {key} is empty: write one")
    return prompts


def _is_image(path: Path) -> bool:
    from diffsight.datasets.files import read_image

    try:
        read_image(path)
    except InputError:
        return False
    return True


def _check_request(request: _Request, predictor: "Predictor", source: str) -> None:
    """Check prompts, classes and confidence against a model, before the first image.

    Raises:
        InputError: if the model cannot use one.
    """
    model, options, captions = predictor.model, request.prompt, request.captions
    if captions is None and model.requires_prompt and not (options.expression or "").strip():
        text = "a sentence" if model.task.requires_prompt else "a caption"
        raise InputError(
            f"{source} needs {text}: give one with --expression, or a file with --captions"
        )
    if not model.requires_prompt:
        for option, value in (("expression", options.expression), ("captions", captions)):
            if value is not None:
                raise InputError(f"{source} reads no sentences: leave --{option} out")
    if request.people.boxes is not None and not model.task.has_regions:
        raise InputError(f"{source} predicts no joints: leave --boxes out")
    if options.scene is not None and not model.method.accepts_prompt:
        raise InputError(f"{source} reads no scene types: leave --scene out")
    for prompt in set(request.prompts.values()):
        if prompt is None and captions is not None:
            continue  # the image cannot be read
        try:
            model.method.check_prompt(prompt)
        except InputError as error:
            prefix = "" if captions is None else f"{captions}: "
            raise InputError(f"{prefix}{error}") from None
    if request.classes is not None and request.confidence is not None:
        raise InputError(
            "--confidence is calibrated for all classes: leave --classes or --confidence out"
        )
    try:
        if request.classes is not None:
            model.task = model.task.restrict_to(list(request.classes))
        if request.confidence is not None:
            predictor.use_confidence(request.confidence)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _run(jobs: "Sequence[Job]", one: _Loaded, prompts: Prompts, report: Report) -> None:
    """Predict and write all images; images that cannot be used are reported and skipped."""
    from diffsight.ops.memory import give_back_memory

    remaining = iter(jobs)
    # an error ends the stream of predictions; the next call continues after it
    while failed := _run_until_too_large(remaining, one, prompts, report):
        jobs, message = failed
        give_back_memory()
        if not jobs:
            raise InputError(message)
        if len(jobs) == 1:
            report(one.out, jobs[0], options.error_record(jobs[0], InputError(message)))
            continue
        for job in jobs:  # images of one batch: try each alone
            _run([job], one, prompts, report)


def _run_until_too_large(
    jobs: "Iterator[Job]", one: _Loaded, prompts: Prompts, report: Report
) -> "tuple[Sequence[Job], str] | None":
    """Predict and write; return images that need too much memory, with the error message."""
    waiting: deque[tuple[Job, Tensor, People | None, Rig | None]] = deque()

    def images() -> Iterator["Tensor"]:
        for job in jobs:
            if (inputs := _read(job, one, report)) is not None:
                waiting.append((job, *inputs))
                yield inputs[0]

    # these generators run after the image of the same index was read
    texts = (prompts[waiting[-1][0].name] for _ in itertools.count())
    people = (waiting[-1][2] for _ in itertools.count())
    rigs = (waiting[-1][3] for _ in itertools.count())
    try:
        for prediction, compared in one.predict(images(), texts, people, rigs):
            job, image, *_ = waiting.popleft()
            _write(prediction, compared, image, one, job, prompts, report)
    except TooLargeError as error:
        return [job for job, *_ in waiting], str(error)
    return None


def _write(
    prediction: "Prediction",
    compared: "StepComparison | None",
    image: "Tensor",
    one: _Loaded,
    job: "Job",
    prompts: Prompts,
    report: Report,
) -> None:
    from diffsight.inference.write import OverwriteError, write_prediction
    from diffsight.ops.memory import report_out_of_memory

    sentence = prompts[job.name] if one.notes["scene"] is None else None
    notes = {**one.notes, "expression": sentence}
    if compared is not None:
        notes["steps_compared"] = compared.rows()
    advice = f"{job.image}: not enough memory for its output files: give a smaller image"
    try:
        with report_out_of_memory(advice):
            pictures = compared and {"steps": compared.picture(image)}
            about = write_prediction(prediction, one.out, job, notes, image, pictures)
    except (OverwriteError, TooLargeError) as error:
        about = {"image": str(job.image), "error": str(error)}
    report(one.out, job, about)


def _read(
    job: "Job", one: _Loaded, report: Report
) -> "tuple[Tensor, People | None, Rig | None] | None":
    """Return an image with its people or cameras; report it if it cannot be used."""
    from diffsight.datasets.rig_file import read_image_or_rig
    from diffsight.inference.pipeline import check_rig

    try:
        image, rig = read_image_or_rig(job.image, requires_rig=one.predictor.model.reads_rig)
        one.predictor.plan.working_hw(*image.shape[-2:])
        if rig is not None:
            check_rig(one.predictor.model, job.image, rig)
        people = one.find_people and one.find_people(image, job.image)
    except InputError as error:
        report(one.out, job, options.error_record(job, error))
        return None
    return image, people, rig


def _notes(request: _Request, source: str, predictor: "Predictor") -> dict[str, Any]:
    """Return metadata about a model and its options for the JSON files of predictions."""
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
    scores = info.get("held_out", {})
    held_out = {
        "metric": info.get("metric"),
        **{n: scores[n] for n in (info.get("chosen"), "constant", "mean map") if n in scores},
        "verdict": info.get("verdict"),
    }
    return {
        "model": {"id": source, "fingerprint": info.get("fingerprint")},
        "plan": predictor.plan.describe(),
        "scene": request.prompt.scene,
        # the key `classes` is the file of class ids
        "only_classes": None if request.classes is None else list(request.classes),
        **({"held_out": held_out} if scores else {}),
        "evaluated": evaluated,
        "diffsight_version": diffsight.__version__,
    }
