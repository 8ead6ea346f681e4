"""Rooms, a server and pages of the studio in Chromium, for the tests with the mark ``browser``."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support_browser import (
    CHROMIUM,
    WIDE,
    Open,
    StudioPage,
    StudioServer,
    launched_chromium,
    render_photos,
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="pip install 'diffsight[browser]'")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}")
    with launched_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_photos(tmp_path_factory.mktemp("rooms") / "rooms", 4)


@pytest.fixture
def photos(rooms: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rooms / "photos", tmp_path / "photos"))


@pytest.fixture
def server(photos: Path) -> Iterator[StudioServer]:
    server = StudioServer(photos)
    yield server
    server.kill()


@pytest.fixture
def open_page(chromium: Any, server: StudioServer) -> Iterator[Open]:
    """Opens pages of the server; at the end none of them has failed or reached out."""
    pages: list[StudioPage] = []

    def open_one(size: tuple[int, int] = WIDE, context: Any = None, **options: Any) -> StudioPage:
        if not server.url:
            server.start()
        viewport = {"width": size[0], "height": size[1]}
        context = context or chromium.new_context(viewport=viewport, **options)
        pages.append(StudioPage(context.new_page(), server))
        pages[-1].open()
        return pages[-1]

    yield open_one
    for one in pages:
        one.check()
        one.page.context.close()
