"""The routes of the page, without a network and without a training."""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_studio import (
    BEARER,
    JSON,
    Answer,
    guarded,
    opened,
    send,
    stroke,
    write_photographs,
)

from diffsight.outputs import Classes
from diffsight.studio.app import make_app
from diffsight.studio.events import Events
from diffsight.studio.learner import Learner
from diffsight.studio.live import class_task
from diffsight.studio.project import Project
from diffsight.studio.session import BACKBONE, Session
from diffsight.studio.shared import Predicted
from diffsight.studio.state import Score


class Page:
    """A page of the studio; the thread of the learner is not started."""

    def __init__(self, project: Project) -> None:
        self.project, self.events = project, Events()
        self.learner = Learner(project, self.events.publish, BACKBONE)
        self.app = guarded(make_app(project, Session(project, self.learner), self.events))

    def get(self, path: str) -> Answer:
        return send(self.app, "GET", path, headers=BEARER)

    def send(self, method: str, path: str, data: Any) -> Answer:
        body = json.dumps(data).encode()
        return send(self.app, method, path, headers={**BEARER, **JSON}, body=body)

    def predict(self, number: int) -> None:
        """Store a prediction: the first class on the left, and the second on the right."""
        maps = torch.zeros(1, 2, 24, 32)
        maps[:, 0, :, :16], maps[:, 1, :, :16] = 0.9, 0.1
        maps[:, 0, :, 16:], maps[:, 1, :, 16:] = 0.4, 0.6
        task = class_task(self.project.classes)
        output = Predicted(task, Classes(maps, "probabilities"), 7)
        self.learner.shared.predictions.put(number, output)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with opened(write_photographs(tmp_path / "photos")) as project:
        yield Page(project)


def pixels(answer: Answer) -> np.ndarray:
    assert answer.status == 200
    return np.array(Image.open(io.BytesIO(answer.body)))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode elsewhere")
def test_a_file_name_that_is_no_text_can_be_sent_and_exported(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photos", 1)
    name = os.fsdecode(b"\xff.png")
    (folder / "photo0.png").rename(folder / name)
    with opened(folder) as project:
        page = Page(project)
        assert [one["name"] for one in page.get("/api/project").json["images"]] == [name]
        page.send("POST", "/api/images/0/strokes", stroke("a"))
        out = Path(page.send("POST", "/api/export", {}).json["folder"])
    assert (out / "images.txt").read_bytes() == b"\xff.png\n"


def test_a_loaded_page_lists_new_images(page: Page) -> None:
    write_photographs(page.project.folder, 4)
    names = [one["name"] for one in page.get("/api/project").json["images"]]
    assert names == ["photo0.png", "photo1.png", "photo2.png", "photo3.png"]


def test_the_project_lists_images_classes_and_scores(page: Page) -> None:
    page.send("POST", "/api/images/1/strokes", stroke("a"))
    project = page.get("/api/project").json
    assert project["kind"] == "segmentation"
    assert [one["name"] for one in project["classes"]] == ["wall", "floor"]
    size = {"width": 64, "height": 48, "accepted": False, "has_prediction": False}
    assert project["images"] == [
        {"id": i, "name": f"photo{i}.png", "strokes": int(i == 1), **size} for i in range(3)
    ]
    assert (project["unit"], project["range"], project["scores"]) == ("", None, [])
    assert project["backbone"] == "efficientnet-lite0@256"


def test_requests_of_a_page_of_another_workspace_are_refused(page: Page) -> None:
    project = page.get("/api/project").json["id"]
    assert project == page.project.id
    for name, status in (("another", 409), (project, 200)):
        headers = {**BEARER, **JSON, "X-Project": name}
        body = json.dumps(stroke("a")).encode()
        path = "/api/images/0/strokes"
        assert send(page.app, "POST", path, headers=headers, body=body).status == status
        assert len(page.project.strokes(0)[0]) == int(status == 200)
        assert send(page.app, "GET", path, headers=headers).status == status


def test_a_problem_of_the_folder_is_sent(page: Page) -> None:
    assert page.get("/api/project").json["problem"] == ""
    (page.project.folder / "photo0.jpg").touch()
    assert "photo0.jpg and photo0.png" in page.get("/api/project").json["problem"]


def test_an_image_that_cannot_be_read_is_listed_with_the_reason(page: Page) -> None:
    page.project.photograph(1).path.write_bytes(b"damaged")
    images = page.get("/api/project").json["images"]
    assert "photo1.png" in images[1]["error"]
    assert (images[1]["width"], images[2]["width"]) == (0, 64)
    answer = page.get("/api/images/1/picture")
    assert answer.status == 400
    assert "photo1.png" in answer.json["error"]


def test_strokes_come_back(page: Page) -> None:
    stored = page.send("POST", "/api/images/0/strokes", stroke("a", 1)).json
    page.send("POST", "/api/images/0/strokes", stroke("b", None))
    undone = page.send("POST", "/api/images/0/undo", {"tab": "tab"}).json
    assert undone["stroke"] == "b"
    answer = page.get("/api/images/0/strokes").json
    assert answer["version"] == undone["number"]
    first, second = answer["strokes"]
    assert {**first, "undone": False, "number": stored["number"]} == first
    assert (first["value"], first["points"]) == (1, [[10, 10], [30, 12]])
    assert second["undone"]
    assert page.send("POST", "/api/images/0/redo", {"tab": "tab"}).json["stroke"] == "b"
    assert page.send("POST", "/api/images/0/redo", {"tab": "tab"}).json["stroke"] is None


def test_pictures_have_the_size_that_was_requested(page: Page) -> None:
    assert pixels(page.get("/api/images/0/picture?side=32")).shape == (24, 32, 3)
    assert pixels(page.get("/api/images/0/picture")).shape == (48, 64, 3)
    page.send("POST", "/api/images/0/strokes", stroke("a", 1))
    labels = pixels(page.get("/api/images/0/labels.png?side=64"))
    colour = page.project.classes[1].rgb
    assert tuple(labels[11, 20]) == (*colour, 255)
    assert labels[40, 50, 3] == 0


def test_predictions_are_pictures_with_a_version(page: Page) -> None:
    assert page.get("/api/images/0/prediction.png").status == 404
    page.predict(0)
    answer = page.get("/api/images/0/prediction.png?side=64")
    assert answer.headers["x-version"] == "7"
    shown = pixels(answer)
    first, second = (one.rgb for one in page.project.classes)
    assert tuple(shown[10, 5]) == (*first, 255)
    assert tuple(shown[10, 60]) == (*second, 255)
    alpha = pixels(page.get("/api/images/0/prediction.png?side=64&layer=uncertainty"))[..., 3]
    assert (alpha[10, 5], alpha[10, 60]) == (51, 204)  # 0.2 and 0.8 of 255
    assert page.get("/api/project").json["images"][0]["has_prediction"]


def test_a_prediction_is_accepted_and_taken_back(page: Page) -> None:
    assert page.send("POST", "/api/images/0/accept", {}).status == 400
    page.predict(0)
    page.send("POST", "/api/images/0/strokes", stroke("a", 1))
    assert "number" in page.send("POST", "/api/images/0/accept", {}).json
    values = page.project.labels(0, (48, 64)).values
    assert (values[11, 15], values[40, 5], values[40, 60]) == (1, 0, 1)
    assert page.get("/api/project").json["images"][0]["accepted"]
    page.send("DELETE", "/api/images/0/accept", {})
    assert not page.get("/api/project").json["images"][0]["accepted"]


def test_classes_are_added_and_changed(page: Page) -> None:
    new = page.send("POST", "/api/classes", {"name": "lamp", "colour": "#ABCDEF"}).json
    assert new == {"id": 2, "name": "lamp", "colour": "#abcdef"}
    assert page.send("PATCH", "/api/classes/2", {"name": "light"}).json["name"] == "light"
    assert page.send("PATCH", "/api/classes/3", {"name": "x"}).status == 404
    assert page.send("PUT", "/api/kind", {"kind": "scalar", "unit": "K"}).status == 200
    assert page.get("/api/project").json["unit"] == "K"


def test_the_next_image_without_labels_is_suggested(page: Page) -> None:
    page.send("POST", "/api/images/0/strokes", stroke("a"))
    assert page.get("/api/suggestion").json["image"] == 1
    for number in (1, 2):
        page.send("POST", f"/api/images/{number}/strokes", stroke(f"b{number}"))
    assert page.get("/api/suggestion").json["image"] is None


def test_the_image_that_differs_most_is_suggested(page: Page) -> None:
    page.send("POST", "/api/images/0/strokes", stroke("a"))
    vectors = page.learner.shared.vectors
    vectors[0], vectors[1] = torch.zeros(3), torch.zeros(3) + 0.01
    first = page.get("/api/suggestion").json
    assert first["image"] == 1
    assert first["reason"].endswith("(2 of 3 images were compared so far)")
    vectors[2] = torch.ones(3)
    answer = page.get("/api/suggestion").json
    assert answer["image"] == 2
    assert "so far" not in answer["reason"]


def test_the_score_is_forecast_from_its_history(page: Page) -> None:
    assert page.get("/api/suggestion").json["forecast"] is None
    for count, value in ((3, 40.0), (4, 48.0), (5, 52.0)):
        page.project.add_score(Score(count, value, "mIoU, %", True))
    forecast = page.get("/api/suggestion").json["forecast"]
    assert forecast["labelled_images"] == [6, 7, 8, 9, 10]
    rows = zip(forecast["low"], forecast["score"], forecast["high"], strict=True)
    assert all(0 <= low <= middle <= high <= 100 for low, middle, high in rows)


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("POST", "/api/images/9/strokes", stroke("a"), 404),
        ("POST", "/api/images/0/strokes", stroke("a", 5), 400),
        ("POST", "/api/images/0/strokes", stroke("a", points=[[900, 900]]), 400),
        ("POST", "/api/images/0/strokes", stroke("a", points=[[0, 0]] * 200_000), 413),
        ("POST", "/api/images/0/strokes", stroke("a", points=[[0, 0]] * 50_000), 400),
        ("POST", "/api/images/0/undo", {}, 400),
        ("POST", "/api/images/0/undo", {"tab": ["a"]}, 400),
        ("POST", "/api/images/x/undo", {}, 404),
        ("POST", "/api/images/-1/undo", {}, 404),
        ("POST", f"/api/images/{10**30}/undo", {"tab": "a"}, 404),
        ("POST", "/api/classes", {"name": 5}, 400),
        ("PUT", "/api/kind", {"kind": "depth"}, 400),
        ("POST", "/api/export", {}, 400),
        ("GET", "/api/images/0/picture?side=0", {}, 400),
        ("GET", "/api/images/0/picture?side=9999", {}, 400),
        ("GET", "/api/images/0/picture?side=1e3", {}, 400),
        ("GET", f"/api/images/0/picture?side={'9' * 5000}", {}, 400),
        ("GET", "/api/images/0/picture?side=²", {}, 400),
        ("GET", "/api/images/0/prediction.png?layer=x", {}, 400),
        ("GET", "/api/images/..%2f..%2fsecret/picture", {}, 404),
        ("GET", "/static/../app.py", {}, 404),
        ("GET", "/static/..%2fapp.py", {}, 404),
        ("GET", "/static/app.py", {}, 404),
        ("GET", "/static//etc/passwd", {}, 404),
        ("DELETE", "/api/project", {}, 405),
    ],
)
def test_bad_requests_are_one_line(
    page: Page, method: str, path: str, data: Any, status: int
) -> None:
    answer = page.send(method, path, data)
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"error"}
    assert "\n" not in answer.json["error"]


def test_a_full_disk_has_a_status_after_which_the_page_tries_again(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    answer = page.send("POST", "/api/images/0/strokes", stroke("a"))
    assert answer.status == 507
    assert "No space left on device" in answer.json["error"]
    assert page.get("/api/images/0/strokes").json["strokes"] == []


def test_the_page_and_its_files_have_types(page: Page) -> None:
    answer = page.get("/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert page.get("/static/main.js").headers["content-type"].startswith("text/javascript")


def test_changes_are_published(page: Page) -> None:
    sent: list[tuple[str, Any]] = []
    page.project._publish = lambda name, data: sent.append((name, dict(data)))
    number = page.send("POST", "/api/images/0/strokes", stroke("a")).json["number"]
    page.send("POST", "/api/classes", {"name": "lamp"})
    assert sent == [("strokes", {"image": 0, "version": number}), ("project", {})]
