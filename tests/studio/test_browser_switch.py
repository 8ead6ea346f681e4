"""Actions of the page while another image is opened, or another server takes over its address."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support_browser import GROUPS, Open, StudioPage, StudioServer, paint_classes
from tests.support_studio import opened

pytestmark = pytest.mark.browser


class HeldRequests:
    """Requests of a page that wait until they are released.

    Args:
        page: page of Playwright.
        path: end of their addresses.
        method: their method.
    """

    def __init__(self, page: Any, path: str, method: str) -> None:
        self._method, self._is_released = method, False
        self._routes: list[Any] = []
        page.route(f"**{path}", self._hold)

    def _hold(self, route: Any) -> None:
        if self._is_released or route.request.method != self._method:
            route.continue_()
        else:
            self._routes.append(route)

    def release(self) -> None:
        """Send the requests, and hold none from now on."""
        self._is_released = True
        for route in self._routes:
            route.continue_()


def press(page: StudioPage, *keys: str) -> None:
    for key in keys:
        page.page.keyboard.press(key)


def go_to(page: StudioPage, key: str, number: int) -> None:
    press(page, key)
    page.wait_for_text("image-name", f"room {number}")
    page.wait_for_picture()


def test_undo_changes_the_image_on_which_it_was_pressed(open_page: Open) -> None:
    page = open_page()
    page.add_classes("wall")
    go_to(page, "PageDown", 2)
    for y in (100, 200):
        page.draw((100, y), (200, y))
    page.wait_until_saved()
    go_to(page, "PageUp", 1)
    held = HeldRequests(page.page, "/strokes", "POST")
    for y in (100, 200):
        page.draw((100, y), (200, y))
    press(page, "Control+z", "Control+z")
    go_to(page, "PageDown", 2)
    held.release()
    page.wait_until_saved()
    page.wait_until(lambda: page.strokes(0) == [], "both strokes of the first image undone")
    assert len(page.strokes(1)) == 2


def test_redo_changes_the_image_on_which_it_was_pressed(open_page: Open) -> None:
    page = open_page()
    page.add_classes("wall")
    go_to(page, "PageDown", 2)
    page.draw((100, 100), (200, 100))
    page.wait_until_saved()
    press(page, "Control+z")
    page.wait_for_text("message", "Stroke undone")
    go_to(page, "PageUp", 1)
    page.draw((100, 100), (200, 100))
    page.wait_until_saved()
    held = HeldRequests(page.page, "/undo", "POST")
    # in one go: strokes that arrive from the server in between would end the possibility to redo
    page.page.evaluate('["undo", "redo"].forEach((id) => document.getElementById(id).click())')
    go_to(page, "PageDown", 2)
    held.release()
    page.wait_for_text("message", "Stroke redone")
    assert (len(page.strokes(0)), len(page.strokes(1))) == (1, 0)


def test_a_prediction_is_accepted_on_the_image_on_which_the_key_was_pressed(
    open_page: Open, rooms: Path
) -> None:
    page = open_page()
    page.add_classes(*GROUPS)
    paint_classes(page, rooms, 1)
    page.wait_for_prediction()
    page.wait_for_text("learner", "ready", seconds=120)  # the other images are predicted too
    held = HeldRequests(page.page, "/strokes", "POST")
    page.draw((100, 100), (120, 100))
    press(page, "a")
    go_to(page, "PageDown", 2)
    held.release()
    page.wait_for_text("message", "accepted as a label")
    images = page.page.request.get(f"{page.server.origin}/api/project").json()["images"]
    assert [one["accepted"] for one in images] == [True, False, False, False]


def test_a_late_suggestion_does_not_leave_the_image_that_was_opened_meanwhile(
    open_page: Open,
) -> None:
    page = open_page()
    page.add_classes("wall")
    go_to(page, "PageDown", 2)
    page.draw((100, 100), (200, 100))  # so that another image is suggested
    page.wait_until_saved()
    go_to(page, "PageUp", 1)
    held = HeldRequests(page.page, "/api/suggestion", "GET")
    press(page, "n")
    go_to(page, "PageDown", 2)
    held.release()
    page.page.wait_for_timeout(500)
    assert "room 2" in page.text("image-name")


def test_an_image_that_the_keys_chose_does_not_replace_one_that_was_opened_after(
    open_page: Open,
) -> None:
    page = open_page()
    page.page.evaluate(
        """() => {
            const list = document.getElementById("list");
            list.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"}));
            list.lastElementChild.click();
        }"""
    )
    page.page.wait_for_timeout(500)
    assert "room 4" in page.text("image-name")


@pytest.fixture
def servers(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[StudioServer, StudioServer]]:
    """Studios of two folders at one address, which were started as ``diffsight studio .``."""
    both = []
    for name in ("a", "b"):
        with opened(Path(shutil.copytree(rooms / "photos", tmp_path / name))):
            pass  # adds the classes
        both.append(StudioServer(Path()))
    first, second = both
    second.port = first.port
    monkeypatch.chdir(tmp_path / "a")
    first.start()
    yield first, second
    for server in both:
        server.kill()


@pytest.mark.parametrize("is_slow", [False, True], ids=["fast", "slow"])
def test_strokes_of_a_folder_never_go_into_another_one(
    chromium: Any,
    servers: tuple[StudioServer, StudioServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_slow: bool,
) -> None:
    first, second = servers
    page = StudioPage(chromium.new_context().new_page(), first)
    page.open()
    page.wait_for_text("folder", "^a$")
    first.kill()
    page.draw((100, 100), (200, 100))
    page.wait_for_text("banner", "1 stroke is kept")
    held = HeldRequests(page.page, "/api/project", "GET") if is_slow else None
    monkeypatch.chdir(tmp_path / "b")
    second.start()
    if held:  # the stroke is sent before the page has noticed the other server
        page.page.wait_for_timeout(4000)
        assert page.strokes() == []
        held.release()
    page.wait_for_text("folder", "^b$")
    page.wait_until_saved()
    assert page.strokes() == []
    assert page.kept() == 1
    second.kill()
    monkeypatch.chdir(tmp_path / "a")
    first.start()
    page.wait_for_text("folder", "^a$")
    page.wait_until(lambda: page.kept() == 0, "the stroke sent to its own folder")
    assert len(page.strokes()) == 1
    page.check()
    page.page.context.close()
