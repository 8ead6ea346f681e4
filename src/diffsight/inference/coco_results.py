"""Joints of people as COCO's server reads them."""

import json
from pathlib import Path
from typing import Any

from diffsight.atomic import replacing
from diffsight.tasks import Prediction

PERSON = 1  # category
DIGITS = 3  # of a thousandth of a pixel


def result_rows(sample_id: str, prediction: Prediction) -> list[dict[str, Any]]:
    """Return a row for every person of an image.

    Args:
        sample_id: number of the image.
        prediction: of its people.
    """
    people = prediction.to_people()
    image = int(sample_id) if sample_id.isdecimal() else sample_id
    rows = zip(people.keypoints.flatten(1).tolist(), people.scores.tolist(), strict=True)
    return [
        {
            "image_id": image,
            "category_id": PERSON,
            "keypoints": [round(x, DIGITS) for x in joints],
            "score": round(score, 6),
        }
        for joints, score in rows
    ]


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of many images as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(rows) + "\n", encoding="utf-8")
