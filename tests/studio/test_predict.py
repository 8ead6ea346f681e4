"""The server of a saved model: images in, predictions out, a queue, and clear errors."""

import io
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_models import tiny
from tests.support_studio import BEARER, Answer, guarded, send

from diffsight.inference import Plan, Predictor
from diffsight.studio.predict import choose_type, make_predict_app
from diffsight.studio.security import RequestError
from diffsight.tasks.depth import DepthPrediction
from diffsight.tasks.values import ValuePrediction

PICTURE = {**BEARER, "Content-Type": "image/png"}


def png(height: int = 48, width: int = 64) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny(), Plan(short_side=32), device="cpu")


@pytest.fixture
def app(predictor: Predictor) -> Any:
    return guarded(make_predict_app(predictor, "mine", queue_size=1, max_bytes=100_000))


def post(app: Any, body: bytes, accept: str = "*/*", **headers: str) -> Answer:
    rows = {**PICTURE, "Accept": accept, **headers}
    return send(app, "POST", "/predict", headers=rows, body=body)


def test_an_image_is_answered_with_metadata_numbers_or_a_picture(
    app: Any, predictor: Predictor
) -> None:
    answer = post(app, png())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json["size"] == [64, 48]
    assert answer.json["model"] == "mine"
    assert answer.json["plan"].startswith("short side 32 px")
    assert (answer.json["unit"], answer.json["scale"]) == ("m", 1)  # of the numbers
    numbers = np.load(io.BytesIO(post(app, png(), "application/x-npy").body))
    image = torch.from_numpy(np.array(Image.open(io.BytesIO(png())))).permute(2, 0, 1)
    assert (numbers == predictor.one(image).to_label()[0].numpy()).all()
    picture = Image.open(io.BytesIO(post(app, png(), "image/png").body))
    assert picture.size == (64, 48)


@pytest.mark.parametrize("far", [60.0, 65.54, 300.0])
def test_depth_is_sent_in_metres_however_far_it_is(
    app: Any, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, far: float
) -> None:
    depth_m = torch.tensor([[0.5, 20.00042], [far, -1.0]])
    prediction = DepthPrediction(depth_m, depth_m > 0, "z")
    monkeypatch.setattr(predictor, "one", lambda image, prompt: prediction)
    answer = post(app, png(), "application/x-npy")
    numbers = np.load(io.BytesIO(answer.body))
    assert numbers.dtype == np.float32
    assert numbers.tolist() == depth_m.clamp_min(0).tolist()  # 0 is no depth
    assert answer.headers["x-unit"] == "m"


@pytest.mark.parametrize(("unit", "header"), [("K", "K"), ("µg/m³", "%C2%B5g/m%C2%B3"), ("", None)])
def test_numbers_are_sent_with_their_unit(
    app: Any,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    unit: str,
    header: str | None,
) -> None:
    values = torch.tensor([[[1.5, torch.nan]]])
    prediction = ValuePrediction(values, values[0].isfinite(), unit)
    monkeypatch.setattr(predictor, "one", lambda image, prompt: prediction)
    answer = post(app, png(), "application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.body)), values[0].numpy())
    assert answer.headers.get("x-unit") == header


def test_health_describes_the_model(app: Any) -> None:
    answer = send(app, "GET", "/health", headers=BEARER)
    assert answer.json["model"] == "mine"
    assert answer.json["task"] == "Depth"
    assert answer.json["queue"] == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "image/png", 400),
        (b"no image", "image/png", 400),
        (png()[:200], "image/png", 400),
        (png(8, 8), "image/png", 400),
        (png(16, 400), "image/png", 400),
        (b"x" * 100_001, "image/png", 413),
        (png(), "application/json", 415),
        (png(), "text/plain; charset=utf-8", 415),
        (png(), "application/octet-stream", 200),
        (png(), "IMAGE/PNG", 200),
        (png(), "", 200),
    ],
)
def test_bad_images_are_one_line(app: Any, body: bytes, kind: str, status: int) -> None:
    answer = post(app, body, **{"Content-Type": kind})
    assert answer.status == status
    if status != 200:
        assert answer.json.keys() == {"error"}
        assert "\n" not in answer.json["error"]


def test_a_prompt_that_the_model_cannot_use_is_refused(app: Any) -> None:
    answer = send(app, "POST", "/predict?prompt=nowhere", headers=PICTURE, body=png())
    assert answer.status == 400
    assert "nowhere" in answer.json["error"]


def test_the_token_is_needed(app: Any) -> None:
    assert send(app, "POST", "/predict", body=png()).status == 401
    assert send(app, "GET", "/health").status == 401


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("image/png", "image/png"),
        ("image/*;q=0.8", "image/png"),
        ("text/html, application/x-npy", "application/x-npy"),
    ],
)
def test_the_type_follows_the_header(accept: str, kind: str) -> None:
    assert choose_type(accept) == kind


def test_a_type_that_does_not_exist_is_refused(app: Any) -> None:
    with pytest.raises(RequestError, match="accept one of"):
        choose_type("text/html")
    assert post(app, png(), "text/html").status == 406


def test_a_full_queue_refuses_further_images(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = guarded(make_predict_app(predictor, "mine", queue_size=1, max_bytes=100_000))
    started, go_on = threading.Event(), threading.Event()
    real = predictor.one

    def slow(*arguments: Any) -> Any:
        started.set()
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(predictor, "one", slow)
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(post(app, png()))) for _ in range(2)]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    service = "/health"
    while send(app, "GET", service, headers=BEARER).json["queue"] < 1:
        pass
    refused = post(app, png())
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "queue is full (1 images wait)" in refused.json["error"]
    go_on.set()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200, 200]
    assert post(app, png()).status == 200
