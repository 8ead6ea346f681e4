"""The routes of the studio: the page, the project, strokes, pictures, predictions and events."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from diffsight.errors import InputError
from diffsight.studio.events import Events
from diffsight.studio.log import DiskError
from diffsight.studio.pictures import draw_labels
from diffsight.studio.project import MissingError, Project
from diffsight.studio.security import RequestError, read_json
from diffsight.studio.session import Session

MAX_JSON = 1_000_000  # bytes of a request
MAX_SIDE = 4096  # pixels of a picture
PROJECT_HEADER = "X-Project"  # id of the workspace to which a request belongs
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
Endpoint = Callable[[Request], Awaitable[Response]]
log = logging.getLogger(__name__)


def make_app(project: Project, session: Session, events: Events) -> Starlette:
    """Return the application of the studio.

    Args:
        project: the labels.
        session: the model that is trained on them.
        events: events that are sent to the pages.
    """
    routes = _Routes(project, session, events)
    image = "/api/images/{id:int}"
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/", routes.page),
        ("GET", "/static/{name}", routes.static),
        ("GET", "/api/project", routes.project),
        ("PUT", "/api/kind", routes.kind),
        ("POST", "/api/classes", routes.add_class),
        ("PATCH", "/api/classes/{id:int}", routes.change_class),
        ("GET", f"{image}/picture", routes.picture),
        ("GET", f"{image}/strokes", routes.strokes),
        ("POST", f"{image}/strokes", routes.add_stroke),
        ("POST", f"{image}/undo", routes.undo),
        ("POST", f"{image}/redo", routes.redo),
        ("GET", f"{image}/labels.png", routes.labels),
        ("GET", f"{image}/prediction.png", routes.prediction),
        ("POST", f"{image}/accept", routes.accept),
        ("DELETE", f"{image}/accept", routes.take_back),
        ("POST", f"{image}/open", routes.open),
        ("GET", "/api/suggestion", routes.suggestion),
        ("POST", "/api/export", routes.export),
        ("GET", "/api/events", routes.events),
    ]
    return Starlette(
        routes=[
            Route(path, routes.of_this_project(endpoint), methods=[method])
            for method, path, endpoint in table
        ],
        exception_handlers=ERROR_HANDLERS,
    )


class AsciiJson(JSONResponse):
    """An answer in JSON. File names of any bytes can be sent, because JSON is ASCII here."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of the answer."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class _Routes:
    """The endpoints. What may wait for a disk or a lock runs in a thread."""

    def __init__(self, project: Project, session: Session, events: Events) -> None:
        self._project, self._session, self._events = project, session, events
        self._files = _read_static()

    def of_this_project(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that refuses requests which belong to another workspace.

        The page of an earlier server on this port may still be open. Its images have other numbers.
        """

        async def checked(request: Request) -> Response:
            if request.headers.get(PROJECT_HEADER, self._project.id) != self._project.id:
                raise RequestError(409, "this page shows another folder: reload it")
            return await endpoint(request)

        return checked

    async def page(self, request: Request) -> Response:
        """Return the page."""
        return self._file("index.html")

    async def static(self, request: Request) -> Response:
        """Return a file of the page; only the names of the package's files exist."""
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        data, kind = self._files[name]
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    async def project(self, request: Request) -> Response:
        """Return the project as JSON."""
        return AsciiJson(await run_in_threadpool(self._session.describe))

    async def kind(self, request: Request) -> Response:
        """Choose the kind of the labels."""
        data = await read_json(request, MAX_JSON)
        await run_in_threadpool(self._project.set_kind, data.get("kind"), data.get("unit"))
        return AsciiJson({})

    async def add_class(self, request: Request) -> Response:
        """Add a class."""
        data = await read_json(request, MAX_JSON)
        add = self._project.add_class
        return AsciiJson(vars(await run_in_threadpool(add, data.get("name"), data.get("colour"))))

    async def change_class(self, request: Request) -> Response:
        """Change the name or the colour of a class."""
        data, number = await read_json(request, MAX_JSON), request.path_params["id"]
        change = self._project.change_class
        new = await run_in_threadpool(change, number, data.get("name"), data.get("colour"))
        return AsciiJson(vars(new))

    async def picture(self, request: Request) -> Response:
        """Return the photograph as JPEG."""
        photograph = self._project.photograph(request.path_params["id"])
        data = await run_in_threadpool(photograph.picture, _side(request))
        return Response(
            data, media_type="image/jpeg", headers={"Cache-Control": "private, no-cache"}
        )

    async def strokes(self, request: Request) -> Response:
        """Return the strokes of an image."""
        strokes, version = self._project.strokes(request.path_params["id"])
        rows = [stroke.to_json() for stroke in strokes]
        return AsciiJson({"strokes": rows, "version": version})

    async def add_stroke(self, request: Request) -> Response:
        """Store a stroke; the answer is sent when it is on disk."""
        data, number = await read_json(request, MAX_JSON), request.path_params["id"]
        stored = await run_in_threadpool(self._project.add_stroke, number, data)
        return AsciiJson({"number": stored})

    async def undo(self, request: Request) -> Response:
        """Undo the last stroke of a tab."""
        return await self._turn(request, self._project.undo)

    async def redo(self, request: Request) -> Response:
        """Reverse the last undo of a tab."""
        return await self._turn(request, self._project.redo)

    async def _turn(
        self, request: Request, turn: Callable[[int, Any], tuple[int, str | None]]
    ) -> Response:
        data, number = await read_json(request, MAX_JSON), request.path_params["id"]
        stored, stroke = await run_in_threadpool(turn, number, data.get("tab"))
        return AsciiJson({"number": stored, "stroke": stroke})

    async def labels(self, request: Request) -> Response:
        """Return the labels as a picture that is transparent where there is none."""
        number, side = request.path_params["id"], _side(request)
        data = await run_in_threadpool(draw_labels, self._project, number, side)
        return Response(data, media_type="image/png")

    async def prediction(self, request: Request) -> Response:
        """Return the prediction, or its uncertainty, as a picture."""
        layer = request.query_params.get("layer", "prediction")
        if layer not in ("prediction", "uncertainty"):
            raise RequestError(400, "layer must be 'prediction' or 'uncertainty'")
        number, side = self._image(request), _side(request)
        drawn = await run_in_threadpool(self._session.draw, number, side, layer)
        if drawn is None:
            raise RequestError(404, "there is no prediction yet: paint more labels, or wait")
        data, version = drawn
        return Response(data, media_type="image/png", headers={"X-Version": str(version)})

    async def accept(self, request: Request) -> Response:
        """Accept the prediction as the label of the pixels that are not painted."""
        await read_json(request, MAX_JSON)
        number = await run_in_threadpool(self._session.accept, self._image(request))
        return AsciiJson({"number": number})

    async def take_back(self, request: Request) -> Response:
        """Remove the accepted labels of an image."""
        number = await run_in_threadpool(self._project.take_back, self._image(request))
        return AsciiJson({"number": number})

    async def open(self, request: Request) -> Response:
        """Note which image is on the screen."""
        await read_json(request, MAX_JSON)
        self._session.open(self._image(request))
        return AsciiJson({})

    async def suggestion(self, request: Request) -> Response:
        """Return the image that should be labelled next."""
        return AsciiJson(await run_in_threadpool(self._session.suggest))

    async def export(self, request: Request) -> Response:
        """Write labels and model to the workspace."""
        await read_json(request, MAX_JSON)
        return AsciiJson(await run_in_threadpool(self._session.export))

    async def events(self, request: Request) -> Response:
        """Return the stream of events."""
        if self._events.is_full:
            raise RequestError(503, "too many pages are open: close some", {"Retry-After": "5"})
        stream = self._events.listen()
        return StreamingResponse(stream, media_type="text/event-stream")

    def _image(self, request: Request) -> int:
        """Return the id of the image in the path, which must exist."""
        return self._project.photograph(request.path_params["id"]).id


def _side(request: Request) -> int:
    """Return the parameter ``side`` in pixels.

    Raises:
        RequestError: if it is no number in range.
    """
    text = request.query_params.get("side", "1600")
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_SIDE):
        raise RequestError(400, f"side must be a whole number from 1 to {MAX_SIDE}")
    return int(text)


def _read_static() -> Mapping[str, tuple[bytes, str]]:
    """Return contents and type of the files of the page by name."""
    folder = resources.files("diffsight.studio") / "static"
    files = {}
    for file in folder.iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if file.is_file() and suffix in TYPES:
            files[file.name] = file.read_bytes(), TYPES[suffix]
    return files


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return AsciiJson({"error": str(error)}, error.status, dict(error.headers))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hints = {404: "nothing is here: reload the page", 405: "this method is not supported here"}
    message = hints.get(error.status_code, str(error.detail))
    return AsciiJson({"error": message}, error.status_code, error.headers)


async def _on_input_error(request: Request, error: Exception) -> Response:
    kinds = ((MissingError, 404), (DiskError, 507), (InputError, 400))
    status = next(status for kind, status in kinds if isinstance(error, kind))
    return AsciiJson({"error": " ".join(str(error).split())}, status)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    message = f"the server failed ({type(error).__name__}): see its terminal"
    return AsciiJson({"error": message}, 500)


ERROR_HANDLERS: Any = {
    RequestError: _on_request_error,
    HTTPException: _on_http_error,
    InputError: _on_input_error,
    ClientDisconnect: _on_disconnect,
    Exception: _on_crash,
}
