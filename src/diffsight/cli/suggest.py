"""``diffsight suggest``: choose the images that should be labelled next."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import printable, progress, write_json, write_line
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.adaptation.learning_curve import Forecast
    from diffsight.adaptation.suggest_images import ImageSuggestions

FORECASTS = 4  # rows of the forecast in the text; JSON has all


@command("suggest")
def main(
    folder: Path,
    *,
    model: options.Model,
    labelled: options.Folder | None = None,
    earlier: Annotated[Sequence[str], Flag("PATH|ID", repeatable=True)] = (),
    count: int = 10,
    disagreement_weight: float = 0.0,
    json: bool = False,
    run: options.ModelOptions,
) -> int:
    """Choose the images that should be labelled next for a saved model.

    The first image is the one that most unlabelled images resemble, and that no labelled image
    resembles. The next one assumes that the first one is labelled, and so on. The training images
    of the model count as labelled. With the scores of earlier models the command also forecasts the
    held-out score with up to twice as many labelled images. If an image cannot be used, the others
    are still ranked, and the exit status is 1.

    Args:
        folder: folder of images.
        labelled: folder of the labelled images, if they are not in the folder of images.
        earlier: earlier model of the same task, with fewer labelled images, for the forecast, which
            needs the scores for three numbers of images; repeat the option for several models.
        count: largest number of suggestions.
        disagreement_weight: power of the disagreement of models that were trained without a fold
            of the labelled images each; it multiplies the gain (0: it is not computed).
        run: model that the features come from, and device.

    Example:
        diffsight suggest photos --model mine.safetensors
    """
    from diffsight.adaptation.suggest_images import forecast_models, suggest_images
    from diffsight.hub import read_config
    from diffsight.inference.write import find_images

    if count < 1:
        raise InputError(f"--count must be at least 1, got {count}")
    for one in (folder, labelled):
        if one is not None and not one.is_dir():
            raise InputError(f"{one}: is not a folder: give a folder of images")
    images = [job.image for job in find_images([str(folder)])]
    others = [job.image for job in find_images([str(labelled)])] if labelled else []
    infos = [read_config(one)["info"] for one in earlier]
    loaded = run.load(model)
    forecast = forecast_models(infos, loaded)
    with progress("computing features", len(images) + len(others)) as advance:
        result = suggest_images(
            images,
            loaded,
            labelled=others,
            count=count,
            disagreement_weight=disagreement_weight,
            advance=advance,
        )
    for error in result.errors.values():
        write_line(error)
    metric = loaded.task.metric_name
    if json:
        write_json(_to_json(result, forecast, metric), indent=1)
    else:
        paths = [_as_typed(folder, result.images[one.image]) for one in result.ranking]
        reasons = [f"{path}: {one.reason}" for path, one in zip(paths, result.ranking, strict=True)]
        lines = [f"{number:>3}. {text}" for number, text in enumerate(reasons, start=1)]
        lines = lines or ["all images are labelled"]
        sys.stdout.write(printable("\n".join(lines + format_forecast(forecast, metric))) + "\n")
    return options.SOME_FAILED if result.errors else 0


def _as_typed(folder: Path, image: Path) -> Path:
    """Return the path of an image that begins with the folder as the user wrote it.

    Args:
        folder: value of the argument ``folder``.
        image: absolute path of an image in the folder.
    """
    return folder / image.relative_to(os.path.abspath(folder))


def _to_json(
    result: "ImageSuggestions", forecast: "Forecast | None", metric: str
) -> dict[str, Any]:
    """Return suggestions, numbers of images, forecast and errors as plain data."""
    return {
        "suggestions": [
            {**asdict(one), "image": str(result.images[one.image])} for one in result.ranking
        ],
        "labelled": result.labelled,
        "unlabelled": len(result.images) - result.labelled,
        "forecast": None if forecast is None else {"metric": metric, **asdict(forecast)},
        "errors": {str(path): text for path, text in result.errors.items()},
    }


def format_forecast(forecast: "Forecast | None", metric: str) -> list[str]:
    """Return a few lines about a forecast, the last one for the largest number of images."""
    if forecast is None:
        return []
    last = len(forecast.score) - 1
    chosen = sorted({round(i * last / (FORECASTS - 1)) for i in range(FORECASTS)})
    head = f"forecast of the held-out score ({metric}), with a {forecast.level:.0%} interval:"
    return [head] + [
        f"{forecast.labelled_images[i]:>6} labelled images: {forecast.score[i]:.4g} "
        f"({forecast.low[i]:.4g} to {forecast.high[i]:.4g})"
        for i in chosen
    ]
