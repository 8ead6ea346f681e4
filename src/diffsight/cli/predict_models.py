"""Load the models of ``diffsight predict``, and check prompts and options against them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli import options
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.inference import Predictor
    from diffsight.inference.run_images import LoadedModel, Prompts
    from diffsight.inference.storage import AnyPath
    from diffsight.inference.write import Job

MAX_LISTED = 5  # images without a caption in a message


@dataclass(frozen=True, kw_only=True)
class ContentOptions:
    """What the predictions contain.

    Attributes:
        classes: predict only these classes of the model (default: all).
        confidence: also write intervals (for classes: sets of classes) that contain the truth for
            this fraction of the pixels of a new image on average, such as 0.9, and a mask of the
            pixels where the model abstains.
        steps: number of steps of a method that refines its output step by step, such as DDP
            (default: the number that the model stores). With several, such as 1,3,10, the
            prediction has the largest number, and NAME_steps.png shows all with their run times.
    """

    classes: tuple[str, ...] | None = None
    confidence: float | None = None
    steps: tuple[int, ...] = ()

    def check(self) -> None:
        """Check what does not depend on a model.

        Raises:
            InputError: if options contradict each other, or a number is out of range.
        """
        if self.steps and min(self.steps) < 1:
            raise InputError(f"--steps must be at least 1, got {min(self.steps)}")


@dataclass(frozen=True)
class Request:
    """Images, prompts and options of a prediction with several models.

    Attributes:
        jobs: images and films.
        prompts: prompt of each of them.
        prompt: prompt of all images.
        people: boxes around people, or a detector.
        captions: file of the prompts; None if they do not come from a file.
        content: what the predictions contain.
    """

    jobs: "Sequence[Job]"
    prompts: "Prompts"
    prompt: options.PromptOptions
    people: options.PeopleOptions
    captions: Path | None
    content: ContentOptions


def load_models(
    sources: Sequence[str],
    out: "AnyPath",
    request: Request,
    run: options.RunOptions,
    plan: partial[Plan],
) -> "list[LoadedModel]":
    """Load all models before the first image, with common frozen parts and latents.

    Raises:
        InputError: if a model cannot be used, or not with these options.
    """
    from diffsight.inference.run_images import LoadedModel
    from diffsight.inference.shared_latents import SharedLatents

    latents = SharedLatents() if len(sources) > 1 else None
    shared: dict[str, Any] = {}
    models = []
    people_finder: options.FindPeople | None = None
    for source in sources:
        complete = partial(plan, steps=max(request.content.steps, default=None))
        predictor = run.load_predictor(source, complete, shared=shared, latents=latents)
        _check_request(request, predictor, source)
        folder = out / _model_name(source) if len(sources) > 1 else out
        has_people = predictor.model.task.has_regions
        if has_people and people_finder is None:
            people_finder = request.people.finder(request.jobs, str(predictor.device))
        notes = _notes(request, source, predictor)
        finder = people_finder if has_people else None
        models.append(LoadedModel(predictor, folder, notes, finder, request.content.steps))
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


def read_prompts(
    jobs: "Sequence[Job]", prompt: options.PromptOptions, captions: Path | None
) -> dict[Path, str | None]:
    """Return the prompt of every image, by the path of its result.

    Raises:
        InputError: if the file of captions lacks an image.
    """
    from diffsight.datasets.captioned import PHOTOS, photo_key, read_captions

    if captions is None:
        return {job.name: prompt.text for job in jobs}
    for job in jobs:
        if job.url is not None:
            raise InputError(f"{job.url}: {captions} is for images of this machine, not for URLs")
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


def _check_request(request: Request, predictor: "Predictor", source: str) -> None:
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
    request.people.check(model, source)
    if options.scene is not None and not model.reads_text:
        raise InputError(f"{source} reads no scene types: leave --scene out")
    for prompt in set(request.prompts.values()):
        if prompt is None and captions is not None:
            continue  # the image cannot be read
        try:
            model.check_prompt(prompt)
        except InputError as error:
            prefix = "" if captions is None else f"{captions}: "
            raise InputError(f"{prefix}{error}") from None
    if request.content.classes is not None and request.content.confidence is not None:
        raise InputError(
            "--confidence is calibrated for all classes: leave --classes or --confidence out"
        )
    try:
        if request.content.classes is not None:
            model.task = model.task.restrict_to(list(request.content.classes))
        if request.content.confidence is not None:
            predictor.use_confidence(request.content.confidence)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _notes(request: Request, source: str, predictor: "Predictor") -> dict[str, Any]:
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
        "only_classes": None if request.content.classes is None else list(request.content.classes),
        **({"held_out": held_out} if scores else {}),
        "evaluated": evaluated,
        "diffsight_version": diffsight.__version__,
    }
