"""Access rules of the local server: host, origin, token, and headers of every answer."""

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

from diffsight.errors import InputError

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
"""An application of ASGI, the interface between Python's web servers and their applications."""

HOST = "127.0.0.1"
TOKEN_BYTES = 32
BODY_S = 60.0  # time in which a request must arrive
MAX_PATH = 1000  # characters
TOKEN_VARIABLE = "DIFFSIGHT_TOKEN"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: one line with the repair.
        headers: further headers of the answer.
    """

    def __init__(
        self, status: int, message: str, headers: MutableMapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def make_token() -> str:
    """Return the token of the environment variable ``DIFFSIGHT_TOKEN``, or else a random one.

    Raises:
        InputError: if the token of the variable is too short or has unusual characters.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return secrets.token_urlsafe(TOKEN_BYTES)
    if len(token) < TOKEN_BYTES or not all(
        c.isascii() and (c.isalnum() or c in "-_") for c in token
    ):
        raise InputError(
            f"{TOKEN_VARIABLE}: give at least {TOKEN_BYTES} letters, digits, - or _, or unset it"
        )
    return token


@dataclass
class Guard:
    """Lets only requests of the user's own page and programs pass to an application.

    Attributes:
        app: the application.
        port: port of the server.
        token: secret that every request needs, as a cookie or in ``Authorization``.
    """

    app: Application
    port: int
    token: str

    @property
    def address(self) -> str:
        """Address of the server."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Address to open in a browser, with the token."""
        return f"{self.address}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie; a browser sends cookies to all ports of a host."""
        return f"diffsight-{self.port}"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                rows = {"Cache-Control": "no-store", **HEADERS}
                message["headers"] = [*message["headers"]] + [
                    (name.lower().encode(), value.encode())
                    for name, value in rows.items()
                    if name.lower().encode() not in present
                ]
            await send(message)

        try:
            response_headers = self._check(Request(scope))
        except RequestError as error:
            await send_json(send_with_headers, error.status, {"error": str(error)}, error.headers)
            return
        if response_headers:
            await send_json(send_with_headers, 303, {}, response_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def _check(self, request: Request) -> dict[str, str]:
        """Return the headers of a redirection, or nothing for a request that may pass.

        Raises:
            RequestError: for a request that is refused.
        """
        if len(request.scope["path"]) > MAX_PATH:
            raise RequestError(414, f"the path has more than {MAX_PATH:,} characters")
        host, origin = (request.headers.getlist(name) for name in ("host", "origin"))
        if len(host) != 1 or host[0] not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            raise RequestError(403, f"wrong host: use http://{HOST}:{self.port}")
        if origin and origin != [f"http://{host[0]}"]:
            raise RequestError(403, "requests of other pages are refused")
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            is_opened = request.method == "GET" and request.url.path == "/"
            if not (is_opened and request.headers.get("sec-fetch-mode") == "navigate"):
                raise RequestError(403, "requests of other pages are refused")
        given = parse_qs(request.url.query).get("token", [])
        if request.method == "GET" and request.url.path == "/" and given:
            self._require(given)
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return {"Location": "/", "Set-Cookie": cookie}
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        tokens = [bearer.strip()] if kind.lower() == "bearer" else []
        self._require([*tokens, request.cookies.get(self.cookie, "")])
        return {}

    def _require(self, tokens: Sequence[str]) -> None:
        """Refuse a request without the right token."""
        ours = self.token.encode()
        if not any(hmac.compare_digest(one.encode(), ours) for one in tokens):
            raise RequestError(
                401,
                "wrong token: open the address, or send the header, that the command has printed",
                {"WWW-Authenticate": "Bearer"},
            )


async def send_json(
    send: Send, status: int, content: Any, headers: MutableMapping[str, str] | None = None
) -> None:
    """Send a whole answer as JSON."""
    body = json.dumps(content).encode()
    rows = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    pairs = [(name.lower().encode(), value.encode()) for name, value in rows.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        RequestError: if it has more than ``limit`` bytes, or does not arrive in time.
    """
    message = f"the request has more than {limit:,} bytes"
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 15 or int(length) > limit:
        raise RequestError(413, message)
    parts, count = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                count += len(part)
                if count > limit:
                    raise RequestError(413, message)
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"the request took more than {BODY_S:.0f} s to arrive") from None
    return b"".join(parts)


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """Return the JSON object in the body of a request.

    Raises:
        RequestError: if it is too large, of another type, or no JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "send JSON, with the header Content-Type: application/json")
    body = await read_body(request, limit)
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RequestError(400, "the request is not valid JSON") from None
    if not isinstance(content, dict):
        raise RequestError(400, "the request must be a JSON object")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
