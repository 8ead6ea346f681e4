"""A studio server as a process of its own, and a page of it in Chromium."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
MARGIN = 12  # CSS pixels around an image that fits, as in view.js
TIMEOUT_MS = 20_000
# id or label of the focused element, its name for screen readers, whether it has an outline
FOCUSED = """() => {
    const element = document.activeElement;
    const label = element.getAttribute("aria-label") || element.labels?.[0]?.textContent
        || document.getElementById(element.getAttribute("aria-labelledby"))?.textContent
        || element.textContent || "";
    const shown = element.closest(".segments label")?.querySelector("span") ?? element;
    const style = getComputedStyle(shown);
    const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return [element.id || label, label, isSeen || element === document.body];
}"""
# texts whose contrast with their background is below 4.5
FIND_LOW_CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d");
    const rgba = (text) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = text;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const light = (text) => {
        const [red, green, blue] = rgba(text).map((c) => linear(c / 255));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const back = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (rgba(colour)[3] > 250) return colour;
        }
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const isText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!isText || !element.checkVisibility()) continue;
        if (element.closest(":disabled, .unseen")) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(back(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) found.push([element.textContent.trim(), ratio]);
    }
    return found;
}"""
WIDE, TABLET, PHONE = (1440, 900), (820, 1100), (390, 844)
# classes of rooms that are painted as one
GROUPS = {"wall": (0,), "floor": (1, 7), "furniture": (8, 9, 10, 11, 12, 13, 18, 23)}
Point = tuple[float, float]
Open = Callable[..., "StudioPage"]


class StudioServer:
    """``diffsight studio`` in a process that can be killed and started again on the same port.

    Args:
        folder: folder of the photographs.
        keeps_token: whether each start has the same token.
    """

    def __init__(self, folder: Path, *, keeps_token: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = ""
        self._token = "t" * 40 if keeps_token else None
        self._process: subprocess.Popen[str] | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port of the page."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server; return when it answers."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        environment.pop("DIFFSIGHT_TOKEN", None)
        if self._token:
            environment["DIFFSIGHT_TOKEN"] = self._token
        words = ["studio", str(self.folder), "--port", str(self.port), "--no-open"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "diffsight", *words],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith(self.origin), "the server has not started"

    def kill(self) -> None:
        """End the process at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process in order."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout
        process.stdout.close()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class StudioPage:
    """A page of the studio, with what a user does on it.

    Args:
        page: page of Playwright.
        server: server of the page.

    Attributes:
        requests: addresses that the page has requested.
        errors: JavaScript errors of the page.
    """

    def __init__(self, page: Any, server: StudioServer) -> None:
        self.page, self.server = page, server
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self) -> None:
        """Open the address that the server has printed, and wait for the first picture."""
        self.page.goto(self.server.url)
        self.wait_for_picture()

    def check(self) -> None:
        """Check that nothing has failed, and that no request went to another host."""
        assert self.errors == []
        local = (f"{self.server.origin}/", f"blob:{self.server.origin}/", "data:")
        assert [url for url in self.requests if not url.startswith(local)] == []

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
            self.page.wait_for_timeout(50)

    def wait_for_picture(self) -> None:
        """Wait until the open image is drawn."""
        note = self.page.locator("#stage-note")  # the page's own policy forbids wait_for_function
        self.wait_until(
            lambda: bool(self.page.locator("#image-name").text_content()) and note.is_hidden(),
            "the picture",
        )

    def wait_for_prediction(self, seconds: float = 60) -> float:
        """Wait until the prediction has seen the last change; return after how many seconds."""
        canvas = self.page.locator("#canvas")
        self.wait_until(
            lambda: bool(canvas.get_attribute("data-seconds")), "the prediction", seconds
        )
        return float(canvas.get_attribute("data-seconds"))

    def text(self, name: str) -> str:
        """Return the text of the element with this id."""
        return self.page.locator(f"#{name}").inner_text()

    def wait_for_text(self, name: str, pattern: str, seconds: float = 20) -> None:
        """Wait until the text of an element matches a pattern."""
        self.wait_until(
            lambda: re.search(pattern, self.page.locator(f"#{name}").text_content()) is not None,
            f"{pattern!r} in #{name}",
            seconds,
        )

    def wait_until_saved(self) -> None:
        """Wait until the server has acknowledged every stroke."""
        self.wait_for_text("connection", "All saved")

    def add_classes(self, *names: str) -> None:
        """Add classes through the form."""
        for count, name in enumerate(names, start=1):
            self.page.fill("#class-name", name)
            self.page.press("#class-name", "Enter")
            self.wait_until(
                lambda count=count: self.page.locator("#class-list li").count() >= count,
                f"class {name}",
            )
        self.page.locator("#canvas").focus()

    def at(self, point: Point) -> Point:
        """Return where a point of the image is in the window, while the image fits."""
        size = self.page.locator("#image-size").text_content().replace("\u2009", "")
        width, height = map(int, re.findall(r"\d+", size))
        box = self.page.locator("#canvas").bounding_box()
        scale = min(
            (box["width"] - 2 * MARGIN) / width,
            (box["height"] - 2 * MARGIN) / height,
        )
        left = box["x"] + (box["width"] - width * scale) / 2
        top = box["y"] + (box["height"] - height * scale) / 2
        return left + point[0] * scale, top + point[1] * scale

    def draw(self, *points: Point, ends: bool = True) -> None:
        """Draw a stroke with the mouse through points of the image."""
        mouse = self.page.mouse
        mouse.move(*self.at(points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(point), steps=8)
        if ends:
            mouse.up()

    def colour_at(self, point: Point) -> tuple[int, int, int]:
        """Return the colour that the canvas shows at a point of the image."""
        self.page.wait_for_timeout(50)  # for the next frame
        box = self.page.locator("#canvas").bounding_box()
        x, y = self.at(point)
        rgba = self.page.evaluate(
            """([x, y]) => {
                const canvas = document.getElementById("canvas");
                const ratio = devicePixelRatio;
                return [...canvas.getContext("2d").getImageData(x * ratio, y * ratio, 1, 1).data];
            }""",
            [x - box["x"], y - box["y"]],
        )
        return tuple(rgba[:3])

    def strokes(self, image: int = 0) -> list[dict[str, Any]]:
        """Return the strokes of an image that the server has and that are not undone."""
        path = f"{self.server.origin}/api/images/{image}/strokes"
        answer = self.page.request.get(path)
        assert answer.ok, answer.text()
        return [one for one in answer.json()["strokes"] if not one["undone"]]

    def kept(self) -> int:
        """Return the number of strokes that the browser keeps for the server."""
        return self.page.evaluate(
            "Object.keys(localStorage).filter(key => key.startsWith('diffsight:stroke:')).length"
        )


@contextlib.contextmanager
def launched_chromium() -> Iterator[Any]:
    """Start the system's Chromium; it cannot resolve the name of any other machine."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Fingers:
    """Fingers on a page; Playwright itself can only tap.

    Args:
        page: page of Playwright, in a context with ``has_touch``.
    """

    def __init__(self, page: Any) -> None:
        self._session = page.context.new_cdp_session(page)

    def down(self, *points: Point) -> None:
        """Put fingers on these points of the window; those that were down stay."""
        self._send("touchStart", points)

    def move(self, *points: Point) -> None:
        """Move the fingers to these points."""
        self._send("touchMove", points)

    def up(self) -> None:
        """Lift all fingers."""
        self._send("touchEnd", ())

    def draw_with_pen(self, *points: Point) -> None:
        """Draw with a pen through points of the window."""
        kinds = ("mousePressed", *("mouseMoved" for _ in points[1:]), "mouseReleased")
        for kind, (x, y) in zip(kinds, (*points, points[-1]), strict=True):
            row = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self._session.send("Input.dispatchMouseEvent", {**row, "pointerType": "pen"})

    def _send(self, kind: str, points: Sequence[Point]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})


def render_photos(folder: Path, count: int) -> Path:
    """Render rooms of 640 x 480; return the folder that has photos and their labels."""
    from diffsight.cli import main

    words = ["--count", str(count), "--size", "480x640", "--workers", "1", "--labels", "semantic"]
    assert main(["render", "--out", str(folder), *words]) == 0
    (folder / "photos").mkdir()
    for number, path in enumerate(sorted((folder / "images").iterdir()), start=1):
        path.rename(folder / "photos" / f"room {number}.png")
    return folder


def strokes_inside(mask: Any, count: int, margin: int = 16) -> list[tuple[Point, Point]]:
    """Return horizontal strokes inside a region of an image, long ones and apart from each other.

    Args:
        mask: region, boolean ``h w``.
        count: number of strokes at most.
        margin: pixels that a stroke keeps from the border of the region.
    """
    import numpy as np
    from scipy.ndimage import binary_erosion

    inside = binary_erosion(mask, iterations=margin)
    runs = []
    for y in range(margin, len(mask) - margin, 2 * margin):
        edges = np.flatnonzero(np.diff(np.pad(inside[y].astype(np.int8), 1)))
        pairs = list(zip(edges[::2], edges[1::2], strict=True))
        if pairs:
            first, last = max(pairs, key=lambda pair: pair[1] - pair[0])
            runs.append((float(last - first), ((float(first), y), (float(last - 1), y))))
    chosen: list[tuple[Point, Point]] = []
    for _, ends in sorted(runs, reverse=True):
        if all(abs(ends[0][1] - other[0][1]) >= 4 * margin for other in chosen):
            chosen.append(ends)
    return chosen[:count]


def paint_classes(page: StudioPage, rooms: Path, number: int, each: int = 2) -> None:
    """Paint strokes of every class on room ``number``, where the rendered labels have it."""
    import numpy as np
    from PIL import Image

    path = sorted((rooms / "semantic").iterdir())[number - 1]
    semantic = np.asarray(Image.open(path))
    for key, ids in enumerate(GROUPS.values(), start=1):
        page.page.keyboard.press(str(key))
        for ends in strokes_inside(np.isin(semantic, ids), each):
            page.draw(*ends)
