"""Write predicted joints as a results file for COCO's evaluation server."""

import json
from pathlib import Path
from typing import Any

from diffsight.atomic import replacing
from diffsight.tasks import Prediction

PERSON = 1  # category id
DIGITS = 3  # decimals of a coordinate in pixels


def to_result_rows(sample_id: str, prediction: Prediction) -> list[dict[str, Any]]:
    """Return a row of the results file for every person of an image.

    Args:
        sample_id: id of the image; digits are written as a number.
        prediction: predicted people of the image.
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
    """Write the rows of all images as JSON.

    Args:
        path: file to write; its folder is created if needed.
        rows: rows of ``to_result_rows``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(rows) + "\n", encoding="utf-8")
