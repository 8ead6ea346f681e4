"""A model in memory that predicts the images of HTTP requests, one after another."""

import io
import json
import threading
import time
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffsight.datasets.files import read_image
from diffsight.errors import InputError
from diffsight.inference.predictor import Predictor
from diffsight.studio.app import ERROR_HANDLERS
from diffsight.studio.security import RequestError, read_body

PNG, NPY, JSON = "image/png", "application/x-npy", "application/json"
BODY_TYPES = ("", "application/octet-stream")  # and every image/...
RETRY_S = 1
UNIT_HEADER = "X-Unit"  # of the numbers in an NPY file, percent-encoded


def make_predict_app(
    predictor: Predictor, name: str, *, queue_size: int, max_bytes: int
) -> Starlette:
    """Return an application that answers images with the predictions of a model.

    Args:
        predictor: predictor with the model.
        name: name of the model.
        queue_size: images that may wait while another one is predicted.
        max_bytes: largest size of an image file.
    """
    service = _Service(predictor, name, queue_size, max_bytes)
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/health", service.health, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)


class _Service:
    """The endpoints; all requests run in one event loop, so the counter needs no lock."""

    def __init__(self, predictor: Predictor, name: str, queue_size: int, max_bytes: int) -> None:
        self._predictor, self._name = predictor, name
        self._queue_size, self._max_bytes = queue_size, max_bytes
        self._count = 0  # of images that are predicted or wait
        self._turn = threading.Lock()

    async def health(self, request: Request) -> Response:
        """Return what the model predicts, and how many images wait."""
        model = self._predictor.model
        content = {
            "model": self._name,
            "task": type(model.task).__name__,
            "unit": model.info.get("unit", ""),
            "queue": max(0, self._count - 1),
        }
        return JSONResponse(content)

    async def predict(self, request: Request) -> Response:
        """Return the prediction for the image in the body."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in BODY_TYPES and not kind.startswith("image/"):
            repair = "send the bytes of an image file as application/octet-stream"
            raise RequestError(415, f"{repair}, not {kind}")
        content_type = choose_type(request.headers.get("accept", "*/*"))
        prompt = request.query_params.get("prompt")
        if self._count > self._queue_size:
            message = f"the queue is full ({self._queue_size} images wait): try again"
            raise RequestError(503, message, {"Retry-After": str(RETRY_S)})
        self._count += 1
        try:
            data = await read_body(request, self._max_bytes)
            if not data:
                raise RequestError(400, "the request is empty: send the bytes of an image file")
            return await run_in_threadpool(self._predict, data, prompt, content_type)
        finally:
            self._count -= 1

    def _predict(self, data: bytes, prompt: str | None, content_type: str) -> Response:
        """Return the prediction of an image file in one of the types of answers."""
        model = self._predictor.model
        model.check_prompt(prompt)
        with self._turn:  # one at a time, which also limits the memory
            image = read_image("image", data)
            begin = time.perf_counter()
            prediction = self._predictor.one(image, prompt)
            seconds = time.perf_counter() - begin
        if content_type == JSON:
            facts: dict[str, Any] = {"model": self._name, "seconds": round(seconds, 3)}
            facts["plan"] = self._predictor.plan.describe()
            metadata = prediction.metadata()
            if "scale" in metadata:  # it is about a file of scaled values
                facts |= {"unit": prediction.numbers()[1], "scale": 1}
            content = json.dumps({**metadata, **facts})
            return Response(content, media_type=JSON)
        stream, headers = io.BytesIO(), {}
        if content_type == PNG:
            pixels = prediction.overview(image.float() / 255).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
        else:
            values, unit = prediction.numbers()
            np.save(stream, values)
            headers = {UNIT_HEADER: quote(unit, safe="/ ")} if unit else {}
        return Response(stream.getvalue(), headers=headers, media_type=content_type)


def choose_type(accept: str) -> str:
    """Return the type of the answer that a client accepts, JSON if it accepts everything.

    Raises:
        RequestError: if it accepts none of the types.
    """
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for kind in kinds:
        if kind in (PNG, NPY, JSON):
            return kind
        if kind in ("", "*/*", "application/*"):
            return JSON
        if kind == "image/*":
            return PNG
    raise RequestError(406, f"accept one of {JSON}, {PNG}, {NPY}")


def require_servable(predictor: Predictor) -> None:
    """Refuse a model that cannot predict a single image alone.

    Raises:
        InputError: if it reads several cameras.
    """
    model = predictor.model
    if model.reads_rig:
        raise InputError(
            f"{type(model.task).__name__} reads a rig of cameras, not one image: use `diffsight "
            "predict`"
        )


def warm_up(predictor: Predictor) -> None:
    """Predict a small grey image, so that the first request does not wait for libraries."""
    if not predictor.model.requires_prompt:
        predictor.one(torch.full((3, 64, 64), 128, dtype=torch.uint8))
