"""Predict the films of ``diffsight predict``; those that cannot be used are reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli import options
from diffsight.cli.console import progress, write_line
from diffsight.cli.predict_models import Request
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.inference.run_images import LoadedModel
    from diffsight.inference.write import Job

Report = Callable[[Path, "Job", Mapping[str, Any]], None]
"""Takes the folder of the results, a film, and its metadata or error."""


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """How films are predicted.

    Attributes:
        smoothing: weight of earlier frames of a film where the picture does not change, from 0
            (every frame is predicted as an image) to below 1, such as 0.8.
        overlay_only: write the overlay and the JSON file of a film, but no files of its frames.
    """

    smoothing: float = 0.0
    overlay_only: bool = False

    def check(
        self,
        films: "Sequence[Job]",
        people: options.PeopleOptions,
        captions: Path | None,
        steps: Sequence[int],
    ) -> None:
        """Check what does not depend on a model, before one is loaded.

        Args:
            films: the films among the inputs.
            people: boxes around people, or a detector.
            captions: file of captions.
            steps: numbers of steps.

        Raises:
            InputError: if options contradict each other, or PyAV is missing.
        """
        if not 0 <= self.smoothing < 1:
            raise InputError(f"--smoothing {self.smoothing:g}: give 0, or a number below 1")
        if not films:
            for name, value in vars(self).items():
                if value:
                    option = name.replace("_", "-")
                    raise InputError(f"--{option} is for films: leave it out, or give a film")
            return
        from diffsight.inference.video import find_encoder

        find_encoder()
        film = films[0].image
        if captions is not None:
            raise InputError(f"{film}: --captions is for images: give --expression for a film")
        if people.boxes is not None:
            raise InputError(f"{film}: --boxes is for images: leave it out for a film")
        if len(steps) > 1:
            raise InputError(f"{film}: give one number of --steps for a film")


def predict_films(
    films: "Sequence[Job]",
    one: "LoadedModel",
    request: Request,
    how: FilmOptions,
    report: Report,
) -> None:
    """Predict and write all films; films that cannot be used are reported and skipped.

    Args:
        films: films with the names of their results.
        one: model with the folder of its results.
        request: options of the prediction.
        how: options for films.
        report: called with the metadata or the error of every film.
    """
    from diffsight.inference.films import FilmRequest, predict_film
    from diffsight.inference.run_images import error_record
    from diffsight.inference.video import Film
    from diffsight.ops.memory import give_back_memory

    for job in films:
        assert isinstance(one.out, Path)  # films are not written to object stores
        prompt = request.prompts[job.name]
        notes = one.notes_for(prompt)
        wanted = FilmRequest(
            how.smoothing,
            how.overlay_only,
            prompt,
            request.people.detector,
            one.find_people,
            notes,
        )
        try:
            if one.predictor.model.reads_rig:
                raise InputError(f"{job.image}: the model reads several cameras, not a film")
            with Film(job.image) as film, progress(job.image.name, film.frame_count) as advance:
                about = predict_film(one.predictor, film, one.out / job.name, wanted, advance)
        except InputError as error:
            give_back_memory()
            message = error_record(job, error)["error"]
            report(one.out, job, {"film": str(job.image), "error": message})
        except KeyboardInterrupt:
            write_line(f"{job.image}: interrupted; the same command continues")
            raise
        else:
            report(one.out, job, about)
