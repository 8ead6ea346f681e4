"""Events that the server sends to all pages (server-sent events)."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

MAX_WAITING = 200  # events of a page that does not read them
MAX_PAGES = 32
KEEP_ALIVE_S = 15.0
Event = tuple[str, Mapping[str, Any]]


class Events:
    """Sends events to all pages that listen. ``publish`` may be called from any thread.

    Attributes:
        last_status: data of the last event ``status``, which a new page gets first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[asyncio.Queue[Event | None], asyncio.AbstractEventLoop] = {}
        self._is_closed = False
        self.last_status: Mapping[str, Any] = {"text": "", "busy": False}

    @property
    def is_full(self) -> bool:
        """Whether no further page can listen."""
        return len(self._pages) >= MAX_PAGES

    def publish(self, name: str, data: Mapping[str, Any]) -> None:
        """Send an event to all pages."""
        if name == "status":
            if data == self.last_status:
                return
            self.last_status = data
        self._put((name, data))

    def close(self) -> None:
        """End the streams of all pages."""
        self._is_closed = True
        self._put(None)

    async def listen(self) -> AsyncIterator[bytes]:
        """Yield the events as lines of a stream, until the server stops or the page lags behind."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        with self._lock:
            self._pages[queue] = asyncio.get_running_loop()
        try:
            yield b"retry: 1000\n\n" + _to_lines(("status", self.last_status))
            while not self._is_closed and queue.qsize() < MAX_WAITING:
                try:
                    event = await asyncio.wait_for(queue.get(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if event is None:
                    return
                yield _to_lines(event)
        finally:
            with self._lock:
                self._pages.pop(queue, None)

    def _put(self, event: Event | None) -> None:
        with self._lock:
            pages = list(self._pages.items())
        for queue, loop in pages:
            if queue.qsize() <= MAX_WAITING:
                with contextlib.suppress(RuntimeError):  # the loop has just ended
                    loop.call_soon_threadsafe(queue.put_nowait, event)


def _to_lines(event: Event) -> bytes:
    name, data = event
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
