"""``diffsight predict``: run saved models on images; arrays with their meaning, and pictures."""

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
    from diffsight.inference.compare_steps import StepsOfImage
    from diffsight.inference.write import Job
    from diffsight.rig import Rig
    from diffsight.tasks import Prediction
    from diffsight.types import People

LISTED = 5
Report = Callable[[Path, "Job", Mapping[str, Any]], None]
Prompts = Mapping[Path, str | None]  # by the names of the results


@dataclass(frozen=True)
class _Request:
    """Images, their prompts by the names of the results, classes to predict, and confidence."""

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
    """A model ready to run, the folder of its results, and what the JSON files say about it."""

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
    ) -> "Iterator[tuple[Prediction, StepsOfImage | None]]":
        """Yield the prediction of every image, and those in several numbers of steps."""
        if len(self.steps) < 2:
            yield from zip(self.predictor(images, prompts, people, rigs), itertools.repeat(None))
            return
        from diffsight.inference.compare_steps import compare_steps

        for image, prompt, boxes, rig in zip(images, prompts, people, rigs, strict=False):
            compared = compare_steps(self.predictor, self.steps, image, prompt, boxes, rig)
            yield compared.predictions[-1], compared


@command("predict", either=("scene", "expression", "captions"))
def main(
    images: options.Images,
    *,
    model: Annotated[Sequence[str], Flag("PATH|ID", repeat=True)],
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
    """Predict on images.

    For an image NAME it writes NAME_depth.png (16-bit millimetres, 0 = unknown), NAME_classes.png
    (ids), NAME_mask.png, NAME_keypoints.npy or NAME_values.npy; NAME_colour.png, a picture; and
    NAME.json, which says what the numbers mean. For a model of maps seen from above, give the JSON
    file of the cameras; it writes NAME_map.npy. Several models write into one folder each. The
    exit status is 1 if an image could not be used; all others are done.

    Args:
        model: saved model: a folder, a .safetensors file, the folder of a training, or a hub id;
            repeat it to run several models.
        out: folder for results.
        prompt: the prompt of all images.
        people: where people are, for models of joints.
        captions: file with a sentence for every image, as `diffsight caption --images` writes it.
        classes: predict only these classes of the model (default: all).
        confidence: also write intervals or sets of classes that hold this fraction of the pixels
            of a new image on average, such as 0.9, and where the model abstains.
        steps: steps of a method that refines its output, such as DDP (default: the model's own
            number); of several, such as 1,3,10, the largest is written, and NAME_steps.png shows
            all with their times.
        json: print one line of JSON per image.
        run: where the parts of the model are, and how it runs.
        plan: how an image is run; part of every result.

    Example:
        diffsight predict photos --model mine.safetensors --out predictions
    """
    from diffsight.inference.write import find_images

    jobs = find_images(images)
    options.require_writable(out)
    prompts = _read_prompts(jobs, prompt, captions)
    if steps and min(steps) < 1:
        raise InputError(f"steps must be at least 1, got {min(steps)}")
    request = _Request(jobs, prompts, prompt, people, captions, classes, confidence, steps)
    models = _load(model, out, request, run, plan)
    failed, beyond, whole = 0, 0, len(jobs) * len(models)
    with progress("predicting", whole) as advance:

        def report(folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
            nonlocal failed, beyond
            advance()
            beyond += "metres" in result
            if "error" in result:
                failed += 1
                write_line(result["error"])
            if json:
                write_json({"folder": str((folder / job.name).parent), **result})

        # several models predict image by image, so that what they share is computed once
        for some in [jobs] if len(models) == 1 else [[job] for job in jobs]:
            for one in models:
                _run(some, one, prompts, report)
    what = "images" if len(models) == 1 else "predictions"
    write_line(f"{whole - failed} of {whole} {what} -> {out}")
    if beyond:
        write_line(f"{beyond} with depths that 16 bits of mm do not hold: NAME_metres.npy")
    return options.SOME_FAILED if failed else 0


def _load(
    sources: Sequence[str],
    out: Path,
    request: _Request,
    run: options.RunOptions,
    plan: partial[Plan],
) -> list[_Loaded]:
    """Load all models before the first image; they share frozen parts and latents."""
    from diffsight.inference.shared_latents import SharedLatents

    latents = SharedLatents() if len(sources) > 1 else None
    shared: dict[str, Any] = {}
    models = []
    find: options.FindPeople | None = None
    for source in sources:
        complete = partial(plan, steps=max(request.steps, default=None))
        predictor = run.load_predictor(source, complete, shared=shared, latents=latents)
        _check_request(request, predictor, source)
        folder = out / _name(source) if len(sources) > 1 else out
        has_people = predictor.model.task.has_regions
        if has_people and find is None:
            find = request.people.finder(request.jobs, str(predictor.device))
        notes = _notes(request, source, predictor)
        finder = find if has_people else None
        models.append(_Loaded(predictor, folder, notes, finder, request.steps))
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


def _read_prompts(
    jobs: "Sequence[Job]", options: options.PromptOptions, captions: Path | None
) -> dict[Path, str | None]:
    """Return the prompt of every image, by the names of the results.

    Raises:
        InputError: if images have no caption in the file of captions.
    """
    from diffsight.datasets.captioned import PHOTOS, photo_key, read_captions

    if captions is None:
        return {job.name: options.text for job in jobs}
    texts = read_captions(captions, data=PHOTOS).texts
    prompts = {job.name: texts.get(photo_key(job.image, captions)) for job in jobs}
    missing = [str(job.image) for job in jobs if prompts[job.name] is None and _is_image(job.image)]
    if missing:
        more = ", ..." if len(missing) > LISTED else ""
        raise InputError(
            f"{captions}: no caption for {len(missing)} of {len(jobs)} images: "
            f"{', '.join(missing[:LISTED])}{more}: write the missing ones with "
            f"`diffsight caption --images ... --out {captions}`"
        )
    for job in jobs:
        text = prompts[job.name]
        if text is not None and not text.strip():
            key = photo_key(job.image, captions)
            raise InputError(f"{captions}: the caption of {key} is empty: write one there")
    return prompts


def _is_image(path: Path) -> bool:
    from diffsight.datasets.files import read_image

    try:
        read_image(path)
    except InputError:
        return False
    return True


def _check_request(request: _Request, predictor: "Predictor", source: str) -> None:
    """Refuse prompts and classes that a model cannot use, before the first image.

    Raises:
        InputError: if there is one.
    """
    model, options, captions = predictor.model, request.prompt, request.captions
    if captions is None and model.requires_prompt and not (options.expression or "").strip():
        what = "finds what a sentence describes" if model.task.requires_prompt else "reads captions"
        raise InputError(f"{source} {what}: give one with --expression, or a file with --captions")
    if not model.requires_prompt:
        for option, value in (("expression", options.expression), ("captions", captions)):
            if value is not None:
                raise InputError(f"{source} takes no sentence: leave --{option} out")
    if request.people.boxes is not None and not model.task.has_regions:
        raise InputError(f"{source} finds no joints: leave --boxes out")
    if options.scene is not None and not model.method.accepts_prompt:
        raise InputError(f"{source} takes no scene type: leave --scene out")
    for prompt in set(request.prompts.values()):
        if prompt is None and captions is not None:
            continue  # of an image that cannot be read
        try:
            model.method.check_prompt(prompt)
        except InputError as error:
            where = "" if captions is None else f"{captions}: "
            raise InputError(f"{where}{error}") from None
    if request.classes is not None and request.confidence is not None:
        raise InputError("a confidence is that of all classes: leave --classes or --confidence out")
    try:
        if request.classes is not None:
            model.task = model.task.restrict_to(list(request.classes))
        if request.confidence is not None:
            predictor.use_confidence(request.confidence)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _run(jobs: "Sequence[Job]", one: _Loaded, prompts: Prompts, report: Report) -> None:
    """Predict and write one image after the other; those that cannot be used are skipped."""
    from diffsight.ops.memory import give_back_memory

    rest = iter(jobs)
    # an error ends the stream of predictions: the next one continues
    while failed := _run_until_too_large(rest, one, prompts, report):
        jobs, message = failed
        give_back_memory()
        if not jobs:
            raise InputError(message)
        if len(jobs) == 1:
            report(one.out, jobs[0], options.error_of(jobs[0], InputError(message)))
            continue
        for job in jobs:  # which ran together: each alone
            _run([job], one, prompts, report)


def _run_until_too_large(
    jobs: "Iterator[Job]", one: _Loaded, prompts: Prompts, report: Report
) -> "tuple[Sequence[Job], str] | None":
    """Predict and write; return the images for which memory did not suffice, and why."""
    waiting: deque[tuple[Job, Tensor, People | None, Rig | None]] = deque()

    def images() -> Iterator["Tensor"]:
        for job in jobs:
            if (found := _read(job, one, report)) is not None:
                waiting.append((job, *found))
                yield found[0]

    # evaluated after each image
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
    compared: "StepsOfImage | None",
    image: "Tensor",
    one: _Loaded,
    job: "Job",
    prompts: Prompts,
    report: Report,
) -> None:
    from diffsight.inference.write import Occupied, write_prediction
    from diffsight.ops.memory import memory_for

    sentence = prompts[job.name] if one.notes["scene"] is None else None
    notes = {**one.notes, "expression": sentence}
    if compared is not None:
        notes["steps_compared"] = compared.rows()
    advice = f"{job.image}: not enough memory for its files: give a smaller image"
    try:
        with memory_for(advice):
            pictures = compared and {"steps": compared.picture(image)}
            about = write_prediction(prediction, one.out, job, notes, image, pictures)
    except (Occupied, TooLargeError) as error:
        about = {"image": str(job.image), "error": str(error)}
    report(one.out, job, about)


def _read(
    job: "Job", one: _Loaded, report: Report
) -> "tuple[Tensor, People | None, Rig | None] | None":
    """Return the image, and the people or cameras; one that cannot be used is reported."""
    from diffsight.datasets.rig_file import read_image_or_rig
    from diffsight.inference.pipeline import check_rig

    try:
        image, rig = read_image_or_rig(job.image, wants_rig=one.predictor.model.reads_rig)
        one.predictor.plan.working_hw(*image.shape[-2:])
        if rig is not None:
            check_rig(one.predictor.model, job.image, rig)
        people = one.find_people and one.find_people(image, job.image)
    except InputError as error:
        report(one.out, job, options.error_of(job, error))
        return None
    return image, people, rig


def _notes(request: _Request, source: str, predictor: "Predictor") -> dict[str, Any]:
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
        # `classes` is the file of ids
        "only_classes": None if request.classes is None else list(request.classes),
        **({"held_out": held_out} if scores else {}),
        "evaluated": evaluated,
        "diffsight_version": diffsight.__version__,
    }
