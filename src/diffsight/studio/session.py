"""What the page sees of a project and its model: a description, pictures, and an export."""

import math
import threading
from typing import Any

import numpy as np

from diffsight.adaptation.learning_curve import forecast_score
from diffsight.adaptation.suggest import suggest
from diffsight.errors import InputError
from diffsight.studio.images import fit
from diffsight.studio.learner import Learner
from diffsight.studio.pictures import draw_prediction, draw_uncertainty, predict_at
from diffsight.studio.project import Project

ACCEPTED_SIDE = 2048  # longer side in pixels of accepted labels; the export enlarges them
BACKBONE = "efficientnet-lite0@256"
_NO_PREDICTION = "there is no prediction yet: paint more labels, or wait"


class Session:
    """A project and the model that is trained on its labels.

    Args:
        project: the labels.
        learner: the thread that trains.
    """

    def __init__(self, project: Project, learner: Learner) -> None:
        self._project, self._learner = project, learner
        self._export_lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """Return the project as plain data for the page."""
        project, images = self._project, []
        project.read_folder()
        for row in project.describe_images():
            number = row["id"]
            try:
                width, height = project.photograph(number).size
            except InputError as error:
                width, height, row = 0, 0, {**row, "error": str(error)}
            has_prediction = self._learner.predicted(number) is not None
            size = {"width": width, "height": height}
            images.append({**row, **size, "has_prediction": has_prediction})
        limits = project.value_range()
        return {
            "id": project.id,
            "folder": str(project.folder),
            "problem": project.problem,
            "kind": project.kind,
            "classes": [vars(one) for one in project.classes],
            "unit": project.unit,
            "range": None if limits is None else list(limits),
            "images": images,
            "scores": [vars(one) for one in project.scores],
            "backbone": BACKBONE,
        }

    def open(self, number: int) -> None:
        """Note that an image is on the screen."""
        self._learner.open(number)

    def draw(self, number: int, side: int, layer: str) -> tuple[bytes, int] | None:
        """Return a picture of a prediction, and the version of the prediction.

        Args:
            number: id of the image.
            side: longer side of the picture in pixels.
            layer: ``prediction`` or ``uncertainty``.

        Returns:
            A PNG file and the version; None if there is no prediction.
        """
        predicted = self._learner.predicted(number)
        if predicted is None:
            return None
        width, height = fit(self._project.photograph(number).size, side)
        task, output, hw = predicted.task, predicted.output, (height, width)
        if layer == "prediction":
            return draw_prediction(task, output, hw), predicted.version
        low, high = self._project.value_range() or (0.0, 1.0)
        return draw_uncertainty(task, output, hw, high - low), predicted.version

    def accept(self, number: int) -> int:
        """Accept the prediction of an image as labels; return the number of the record.

        Raises:
            InputError: if there is no prediction.
        """
        predicted = self._learner.predicted(number)
        if predicted is None:
            raise InputError(_NO_PREDICTION)
        width, height = fit(self._project.photograph(number).size, ACCEPTED_SIDE)
        prediction = predict_at(predicted.task, predicted.output, (height, width))
        arrays = prediction.arrays()
        values = (arrays.get("classes") or arrays["values"]).values
        return self._project.accept(number, np.ascontiguousarray(values))

    def suggest(self) -> dict[str, Any]:
        """Return the image to label next with the reason, and a forecast of the score.

        Images whose features are not computed yet are left out, as long as there are others.
        """
        shared, labelled = self._learner.shared, self._project.label_versions()
        others = [i for i in sorted(self._project.images) if i not in labelled]
        numbers = sorted(shared.vectors.keys() & self._project.images.keys())
        forecast = self._forecast()
        if not others:
            return {"image": None, "reason": "all images have labels", "forecast": forecast}
        if not set(numbers) & set(others):
            return {"image": others[0], "reason": "the first without labels", "forecast": forecast}
        suggestions = suggest(
            np.stack([shared.vectors[i].numpy() for i in numbers]),
            [position for position, i in enumerate(numbers) if i in labelled],
            count=1,
        )
        (best,) = suggestions.ranking
        reason, total = best.reason, len(self._project.images)
        if len(numbers) < total:
            reason += f" ({len(numbers)} of {total} images were compared so far)"
        return {"image": numbers[best.image], "reason": reason, "forecast": forecast}

    def _forecast(self) -> dict[str, Any] | None:
        """Return a forecast of the score; None with too few scores."""
        scores = self._project.scores
        if not scores:
            return None
        history = [(one.labelled_images, one.score) for one in scores]
        bounds = (0.0, 100.0) if scores[-1].higher_is_better else (0.0, math.inf)
        forecast = forecast_score(
            history, higher_is_better=scores[-1].higher_is_better, bounds=bounds
        )
        if forecast is None:
            return None
        names = ("labelled_images", "score", "low", "high")
        return {name: list(getattr(forecast, name)) for name in names}

    def export(self) -> dict[str, Any]:
        """Write labels and model to the workspace; return where they are.

        Raises:
            InputError: if there are no labels, or the files cannot be written.
        """
        from diffsight.studio.export import export_project  # imports the large libraries

        with self._export_lock:  # two tabs may export at the same time
            return export_project(self._project, self._learner.copy_model(), BACKBONE)
