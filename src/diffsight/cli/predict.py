"""``diffsight predict``: run saved models on images and films; write arrays and pictures."""

import json as json_text
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import progress, write_json, write_line
from diffsight.cli.engine import EngineOptions
from diffsight.cli.flags import Flag, command
from diffsight.cli.predict_cluster import predict_on_cluster
from diffsight.cli.predict_films import FilmOptions, predict_films
from diffsight.cli.predict_models import ContentOptions, Request, load_models, read_prompts
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.inference.run_images import Report
    from diffsight.inference.storage import AnyPath
    from diffsight.inference.write import Job


@command("predict", exclusive=("scene", "expression", "captions"))
def main(
    images: options.Images,
    *,
    model: Annotated[Sequence[str], Flag("PATH|ID", repeatable=True)],
    out: Annotated[str, Flag("DIR|URL")],
    prompt: options.PromptOptions,
    people: options.PeopleOptions,
    captions: options.File | None = None,
    content: ContentOptions,
    films: FilmOptions,
    json: bool = False,
    run: options.RunOptions,
    plan: partial[Plan],
    engine: EngineOptions,
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
        images: image or film files, folders of them, or quoted patterns such as 'photos/*.jpg'; for
            images also URLs of object stores, such as s3://bucket/photos.
        model: saved model: its folder or .safetensors file, the output folder of `diffsight fit`,
            or a hub id; repeat the option to run several models.
        out: folder for the predictions, or its URL in an object store.
        prompt: prompt of all images.
        people: boxes around people, for models that predict joints.
        captions: JSON file with a caption per image, as `diffsight caption --images` writes it.
        content: what the predictions contain.
        films: options for films.
        json: print the metadata as JSON, one line per image or film.
        run: backbone, device, dtype and image size of the models.
        plan: processing of an image, which is recorded in every result.
        engine: processes that run the models, for images.

    Example:
        diffsight predict photos --model mine.safetensors --out predictions
    """
    from diffsight.inference.storage import parse_location
    from diffsight.inference.video import is_film
    from diffsight.inference.write import find_images

    jobs = find_images(images, films=True, urls=True)
    folder, cluster = parse_location(out), engine.cluster(run.device)
    if isinstance(folder, Path):
        options.require_writable(folder)
    content.check()
    pictures = [job for job in jobs if not is_film(job.image)]
    clips = [job for job in jobs if is_film(job.image)]
    films.check(clips, people, captions, content.steps)
    _check_films(clips, folder, is_cluster=cluster is not None)
    request = Request(jobs, read_prompts(jobs, prompt, captions), prompt, people, captions, content)
    summary = _Summary(json, "images" if len(model) == 1 else "predictions")
    if cluster is not None:
        with summary.images(len(jobs) * len(model), folder) as report:
            predict_on_cluster(model, folder, request, run, plan, cluster, report)
        return summary.status()
    models = load_models(model, folder, request, run, plan)
    if pictures:
        from diffsight.inference.run_images import predict_images
        from diffsight.inference.unfinished import end_interrupted_run

        end_interrupted_run(folder)
        with summary.images(len(pictures) * len(models), folder) as report:
            predict_images(pictures, models, request.prompts, report)
    for one in models:
        predict_films(clips, one, request, films, summary.add_film)
    return summary.status()


def _check_films(films: "Sequence[Job]", out: "AnyPath", *, is_cluster: bool) -> None:
    """Refuse films on a cluster and in object stores.

    Raises:
        InputError: if there is one.
    """
    for job in films:
        if is_cluster:
            raise InputError(f"{job.source}: --engine ray is for images: leave it out for films")
        if job.url is not None or not isinstance(out, Path):
            raise InputError(f"{job.source}: films need folders of this machine, not URLs")


@dataclass
class _Summary:
    """Counts and reports results.

    Attributes:
        json: whether metadata are printed as JSON.
        unit: what is counted: images, or predictions if there are several models.
        failed: number of images that could not be used.
        failed_films: number of films that could not be used, or not to their end.
        out_of_range: number of images and frames with depths that do not fit into the PNG.
    """

    json: bool
    unit: str
    failed: int = 0
    failed_films: int = 0
    out_of_range: int = 0

    @contextmanager
    def images(self, total: int, out: "AnyPath") -> "Iterator[Report]":
        """Yield the function that reports an image; print the number of results at the end.

        Args:
            total: number of results.
            out: folder of the results.
        """
        with progress("predicting", total) as advance:

            def report(folder: "AnyPath", job: "Job", result: Mapping[str, Any]) -> None:
                advance()
                self.add_image(folder, job, result)

            yield report
        write_line(f"{total - self.failed} of {total} {self.unit} -> {out}")

    def status(self) -> int:
        """Report depths that do not fit, and return the exit status."""
        if self.out_of_range:
            write_line(f"{self.out_of_range} have depths beyond 65.535 m: see NAME_metres.npy")
        return options.SOME_FAILED if self.failed or self.failed_films else 0

    def add_image(self, folder: "AnyPath", job: "Job", result: Mapping[str, Any]) -> None:
        """Report an image that cannot be used; print its metadata as JSON."""
        self.out_of_range += "metres" in result
        if "error" in result:
            self.failed += 1
            write_line(result["error"])
        elif result.get("people") == []:
            write_line(f"{job.source}: no person was found: give boxes with --boxes FILE")
        self._print(folder, job, result)

    def add_film(self, folder: Path, job: "Job", result: Mapping[str, Any]) -> None:
        """Report the result of a film; print its metadata as JSON."""
        from diffsight.inference.film_files import FilmFiles, read_entries

        trouble = result.get("error") or result.get("damage")
        if trouble:
            self.failed_films += 1
            write_line(trouble)
        if "error" in result:
            self._print(folder, job, result)
            return
        files, count = FilmFiles(folder / job.name), result["frame_count"]
        self.out_of_range += sum("metres" in one for one in read_entries(files.record))
        write_line(f"{job.image}: {count} frame{'s' * (count != 1)} -> {files.overlay}")
        if self.json:
            about = {"folder": str(files.base.parent), **result, "frames": []}
            sys.stdout.write(json_text.dumps(about).removesuffix("]}"))
            for number, one in enumerate(read_entries(files.record)):
                sys.stdout.write(", " * (number > 0) + json_text.dumps(one))
            sys.stdout.write("]}\n")
            sys.stdout.flush()

    def _print(self, folder: "AnyPath", job: "Job", result: Mapping[str, Any]) -> None:
        if self.json:
            write_json({"folder": str((folder / job.name).parent), **result})
