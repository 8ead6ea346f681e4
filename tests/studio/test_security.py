"""Only the user's own page and programs get an answer."""

from collections.abc import Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.support_studio import BEARER, HOST, JSON, TOKEN, guarded, send

from diffsight.errors import InputError
from diffsight.studio.app import ERROR_HANDLERS
from diffsight.studio.security import make_token, read_body, read_json

COOKIE = {"Cookie": f"other=1; diffsight-8765={TOKEN}"}


async def number_of_bytes(request: Request) -> Response:
    return JSONResponse(len(await read_body(request, 1000)))


async def content(request: Request) -> Response:
    return JSONResponse(await read_json(request, 1000))


async def crash(request: Request) -> Response:
    raise ZeroDivisionError("secret details")


ROUTES = [
    Route("/", number_of_bytes, methods=["GET", "POST"]),
    Route("/json", content, methods=["POST"]),
    Route("/crash", crash),
]
APP = guarded(Starlette(routes=ROUTES, exception_handlers=ERROR_HANDLERS))


def status(method: str = "GET", path: str = "/", **options: Any) -> int:
    return send(APP, method, path, **options).status


@pytest.mark.parametrize("headers", [BEARER, COOKIE, {"authorization": f"bearer  {TOKEN}"}])
def test_the_token_opens_the_door(headers: Mapping[str, str]) -> None:
    assert status(headers=headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer ü"},
        {"Cookie": f"diffsight={TOKEN}"},
        {"Cookie": f"diffsight-8766={TOKEN}"},
        {"Cookie": "diffsight-8765="},
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/json", "/nothing", "/static/main.js", f"/json?token={TOKEN}"]
)
def test_without_the_token_nothing_is_answered(path: str, headers: Mapping[str, str]) -> None:
    answer = send(APP, "GET", path, headers=headers)
    assert answer.status == 401
    assert answer.json == {
        "error": "wrong token: open the address, or send the header, that the command has printed"
    }


def test_the_first_visit_gets_a_cookie_and_an_address_without_the_token() -> None:
    answer = send(APP, "GET", f"/?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert answer.headers["set-cookie"] == (
        f"diffsight-8765={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    )
    assert status(path="/?token=wrong", headers=COOKIE) == 401
    assert status("POST", f"/?token={TOKEN}") == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "", "[::1]:8765"])
def test_other_hosts_are_refused(host: str) -> None:
    assert status(host=host, headers=BEARER) == 403
    assert status(path=f"/?token={TOKEN}", host=host) == 403


def test_localhost_is_the_same_host() -> None:
    assert status(host="localhost:8765", headers=BEARER) == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", f"https://{HOST}", "http://localhost:8765", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_origins_are_refused(origin: str, method: str) -> None:
    answer = send(APP, method, "/", headers={**COOKIE, "Origin": origin})
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_own_origin_is_accepted() -> None:
    assert status("POST", headers={**COOKIE, "Origin": f"http://{HOST}"}) == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_other_pages_start_are_refused(site: str) -> None:
    """A page on another port of this machine is of the same site, so its cookie would be sent."""
    headers = {**COOKIE, "Sec-Fetch-Site": site}
    assert status(headers=headers) == 403
    assert status("POST", headers={**headers, "Sec-Fetch-Mode": "navigate"}) == 403
    assert status(headers={**headers, "Sec-Fetch-Mode": "navigate"}) == 200  # a link to the page
    assert status(headers={**COOKIE, "Sec-Fetch-Site": "same-origin"}) == 200


def test_every_response_has_the_security_headers() -> None:
    answers = [
        send(APP, "GET", "/", headers=BEARER),
        send(APP, "GET", "/"),
        send(APP, "GET", "/nothing", headers=BEARER),
        send(APP, "GET", f"/?token={TOKEN}"),
        send(APP, "GET", "/", host="evil.example"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' blob: data:;")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_large_bodies_are_refused() -> None:
    assert status("POST", headers=BEARER, body=b"x" * 1000) == 200
    answer = send(APP, "POST", "/", headers=BEARER, body=b"x" * 1001)
    assert (answer.status, answer.json) == (413, {"error": "the request has more than 1,000 bytes"})
    # a length that is wrong, missing or no number
    for length in ("5", "9" * 5000, "-1", "1e3", ""):
        headers = {**BEARER, "Content-Length": length}
        assert status("POST", headers=headers, body=b"x" * 200_000) == 413, length


def test_a_body_that_does_not_arrive_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffsight.studio.security.BODY_S", 0.2)
    answer = send(APP, "POST", "/", headers=BEARER, body=b"half", is_complete=False)
    assert answer.status == 408


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1}', 200),
        (b"", 400),
        (b"[1]", 400),
        (b'"a"', 400),
        (b'{"a": NaN}', 400),
        (b'{"a": -Infinity}', 400),
        (b"{", 400),
        (b"\xff\xfe\x00", 400),
        (b'{"a":' + b"[" * 450 + b"]" * 450 + b"}", 200),
        (b'{"a": 1' + b"0" * 900 + b"}", 200),
        (b"x" * 1001, 413),
    ],
)
def test_bodies_must_be_json_objects(body: bytes, expected: int) -> None:
    answer = send(APP, "POST", "/json", headers={**BEARER, **JSON}, body=body)
    assert answer.status == expected
    if expected != 200:
        assert answer.json.keys() == {"error"}
        assert "\n" not in answer.json["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_types_than_json_are_refused(kind: str) -> None:
    """A form of another page can only send these."""
    headers = {**BEARER, "Content-Type": kind}
    assert status("POST", "/json", headers=headers, body=b"{}") == 415


def test_an_unexpected_error_is_one_line_without_details(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        send(APP, "GET", "/crash", headers=BEARER)  # starlette raises it again, for the server
    assert "GET /crash" in caplog.text


def test_methods_and_paths_that_do_not_exist_are_one_line() -> None:
    assert send(APP, "DELETE", "/", headers=BEARER).status == 405
    answer = send(APP, "GET", "/../etc/passwd", headers=BEARER)
    assert (answer.status, answer.json) == (404, {"error": "nothing is here: reload the page"})


def test_tokens_are_random_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFSIGHT_TOKEN", raising=False)
    tokens = {make_token() for _ in range(10)}
    assert len(tokens) == 10
    assert min(map(len, tokens)) >= 43  # 32 bytes
    monkeypatch.setenv("DIFFSIGHT_TOKEN", TOKEN)
    assert make_token() == TOKEN
    for bad in ("short", "x" * 40 + " ", ""):
        monkeypatch.setenv("DIFFSIGHT_TOKEN", bad)
        with pytest.raises(InputError, match="at least 32"):
            make_token()


def test_a_very_long_path_is_refused() -> None:
    assert status(path="/" + "9" * 5000, headers=BEARER) == 414
