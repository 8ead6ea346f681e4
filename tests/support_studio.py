"""The studio in tests: photographs, strokes, requests without a network, and real servers."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffsight.studio.project import Project
from diffsight.studio.security import Guard

PORT, TOKEN = 8765, "t" * 43
HOST = f"127.0.0.1:{PORT}"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}


def write_photographs(folder: Path, count: int = 3, size: tuple[int, int] = (64, 48)) -> Path:
    """Write images of two flat halves with noise, bright above and dark below."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 40, (height, width, 3), dtype=np.uint8)
        pixels[: height // 2] += 180
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder


def stroke(id: str, value: float | None = 0, **changes: Any) -> dict[str, Any]:
    """Return a stroke as a page sends it; without a value it erases."""
    tool = "erase" if value is None else "paint"
    row = {"id": id, "tab": "tab", "tool": tool, "value": value, "radius": 4.0}
    return {**row, "points": [[10, 10], [30, 12]], **changes}


@contextlib.contextmanager
def opened(folder: Path, classes: tuple[str, ...] = ("wall", "floor")) -> Iterator[Project]:
    """Open the project of a folder, and add classes if it has none."""
    work = folder / ".diffsight"
    work.mkdir(exist_ok=True)
    with contextlib.closing(Project(folder, work)) as project:
        for name in classes if not project.classes else ():
            project.add_class(name)
        yield project


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(
    app: Any,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    host: str = HOST,
    is_complete: bool = True,
) -> Answer:
    """Send a request to an application without a network; an incomplete one never ends."""
    route, _, query = path.partition("?")
    pairs = {"Host": host, "Content-Length": str(len(body)), **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": route,
        "raw_path": route.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in pairs.items()],
        "server": ("127.0.0.1", PORT),
        "client": ("127.0.0.1", 1),
    }
    messages: list[dict[str, Any]] = []
    waiting = [body[start : start + 65536] for start in range(0, len(body), 65536)] or [b""]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(3600)
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or not is_complete}

    async def collect(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(app(scope, receive, collect))
    (start,) = (one for one in messages if one["type"] == "http.response.start")
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(m.get("body", b"") for m in messages))


def guarded(app: Any) -> Guard:
    """Return an application behind the rules of access."""
    return Guard(app, PORT, TOKEN)


class Server:
    """A real server in its own process.

    Args:
        arguments: of the command line.
        start: arguments of Python that run the command line.

    Attributes:
        port: its port.
        token: its token.
    """

    def __init__(self, *arguments: str, start: Sequence[str] = ("-m", "diffsight")) -> None:
        command = [sys.executable, *start, *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line.startswith("http://127.0.0.1:"), self.process.communicate()[1]
        address, _, self.token = line.partition("/?token=")
        if not self.token:  # of ``serve``
            address = line.removesuffix("/predict")
            self.token = self.process.stdout.readline().split()[-1]
        self.port = int(address.rpartition(":")[2])

    def send(
        self,
        method: str,
        path: str,
        data: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request with the token."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            content = body if data is None else json.dumps(data).encode()
            rows = {"Authorization": f"Bearer {self.token}", **JSON, **(headers or {})}
            connection.request(method, path, content, rows)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def kill(self) -> None:
        """Kill the process at once."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Stop the server as Ctrl-C does, and return its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def studio(folder: Path, *arguments: str) -> Server:
    """Start a studio on a free port."""
    return Server("studio", str(folder), "--port", "0", "--no-open", *arguments)


def wait_for(condition: Any, seconds: float = 120.0) -> Any:
    """Call a function until its result is true, and return the result."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return result
