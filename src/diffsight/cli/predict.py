"""``diffsight predict``: run saved models on images and films; write arrays and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import progress, write_json, write_line
from diffsight.cli.flags import Flag, command
from diffsight.cli.predict_films import FilmOptions, predict_films
from diffsight.cli.predict_images import predict_images
from diffsight.cli.predict_models import ContentOptions, Request, load_models, read_prompts
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.inference.write import Job


@command("predict", exclusive=("scene", "expression", "captions"))
def main(
    images: options.Images,
    *,
    model: Annotated[Sequence[str], Flag("PATH|ID", repeatable=True)],
    out: options.Folder,
    prompt: options.PromptOptions,
    people: options.PeopleOptions,
    captions: options.File | None = None,
    content: ContentOptions,
    films: FilmOptions,
    json: bool = False,
    run: options.RunOptions,
    plan: partial[Plan],
) -> int:
    """Run saved models on images and films.

    For an image NAME, the command writes the prediction, a picture of it (NAME_colour.png), and
    NAME.json, which explains the numbers. The prediction is NAME_depth.png (16-bit millimetres, 0 =
    unknown), NAME_classes.png (class ids), NAME_mask.png, NAME_keypoints.npy or NAME_values.npy. A
    model of bird's-eye-view maps reads the JSON file of a camera rig instead of an image, and
    writes NAME_map.npy. For a film NAME it writes NAME_overlay.mp4 (the predictions over the film),
    NAME.json, and the files of every frame in the folder NAME_frames; an interrupted run continues.
    If there are several models, each writes to its own folder. If an image or film cannot be used,
    the others are still predicted, and the exit status is 1.

    Args:
        images: image or film files, folders of them, or quoted patterns such as 'photos/*.jpg'.
        model: saved model: its folder or .safetensors file, the output folder of `diffsight fit`,
            or a hub id; repeat the option to run several models.
        out: folder for the predictions.
        prompt: prompt of all images.
        people: boxes around people, for models that predict joints.
        captions: JSON file with a caption per image, as `diffsight caption --images` writes it.
        content: what the predictions contain.
        films: options for films.
        json: print the metadata as JSON, one line per image or film.
        run: backbone, device, dtype and image size of the models.
        plan: processing of an image, which is recorded in every result.

    Example:
        diffsight predict photos --model mine.safetensors --out predictions
    """
    from diffsight.inference.video import is_film
    from diffsight.inference.write import find_images

    jobs = find_images(images, films=True)
    options.require_writable(out)
    content.check()
    pictures = [job for job in jobs if not is_film(job.image)]
    clips = [job for job in jobs if is_film(job.image)]
    films.check(clips, people, captions, content.steps)
    request = Request(jobs, read_prompts(jobs, prompt, captions), prompt, people, captions, content)
    models = load_models(model, out, request, run, plan)
    summary = _Summary(json)
    if pictures:
        summary.total = len(pictures) * len(models)
        with progress("predicting", summary.total) as advance:

            def report(folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
                advance()
                summary.add_image(folder, job, result)

            # several models run image by image, so that features of a common backbone are computed
            # once
            for part in [pictures] if len(models) == 1 else [[job] for job in pictures]:
                for one in models:
                    predict_images(part, one, request.prompts, report)
        unit = "images" if len(models) == 1 else "predictions"
        write_line(f"{summary.total - summary.failed} of {summary.total} {unit} -> {out}")
    for one in models:
        predict_films(clips, one, request, films, summary.add_film)
    if summary.out_of_range:
        write_line(f"{summary.out_of_range} have depths beyond 65.535 m: see NAME_metres.npy")
    return options.SOME_FAILED if summary.failed or summary.failed_films else 0


@dataclass
class _Summary:
    """Counts and reports results.

    Attributes:
        json: whether metadata are printed as JSON.
        total: number of predictions of images.
        failed: number of images that could not be used.
        failed_films: number of films that could not be used, or not to their end.
        out_of_range: number of images and frames with depths that do not fit into the PNG.
    """

    json: bool
    total: int = 0
    failed: int = 0
    failed_films: int = 0
    out_of_range: int = 0

    def add_image(self, folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
        """Report an image that cannot be used; print its metadata as JSON."""
        self.out_of_range += "metres" in result
        if "error" in result:
            self.failed += 1
            write_line(result["error"])
        elif result.get("people") == []:
            write_line(f"{job.image}: no person was found: give boxes with --boxes FILE")
        self._print(folder, job, result)

    def add_film(self, folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
        """Report the result of a film; print its metadata as JSON."""
        self.out_of_range += sum("metres" in one for one in result.get("frames", ()))
        trouble = result.get("error") or result.get("damage")
        if trouble:
            self.failed_films += 1
            write_line(trouble)
        if "error" not in result:
            overlay = (folder / job.name).with_name(result["overlay"])
            count = result["frame_count"]
            write_line(f"{job.image}: {count} frame{'s' * (count != 1)} -> {overlay}")
        self._print(folder, job, result)

    def _print(self, folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
        if self.json:
            write_json({"folder": str((folder / job.name).parent), **result})
