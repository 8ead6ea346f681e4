"""The looks of the studio's page: names, focus, contrast, windows of every size, pictures."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.support_browser import (
    FIND_LOW_CONTRAST,
    FOCUSED,
    GROUPS,
    PHONE,
    TABLET,
    WIDE,
    Open,
    paint_classes,
)

pytestmark = pytest.mark.browser
# variable of the environment; DIFFSIGHT_STUDIO_PICTURES=docs make browser
PICTURES = "DIFFSIGHT_STUDIO_PICTURES"


def test_everything_that_takes_focus_has_a_name_and_shows_the_focus(open_page: Open) -> None:
    page = open_page()
    page.add_classes("wall")
    page.page.mouse.click(*page.at((5, 5)))
    page.page.locator("#canvas").focus()
    seen = set()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        name, text, outline = page.page.evaluate(FOCUSED)
        if name in seen and len(seen) > 12:
            break
        seen.add(name)
        assert text.strip(), f"{name} has no name"
        assert outline, f"{name} does not show the focus"
    assert {"canvas", "class-name", "radius", "undo", "opacity", "next", "export"} <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_at_least_4_5(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.add_classes("wall", "floor")
    page.page.locator("#show-help").click()
    low = page.page.evaluate(FIND_LOW_CONTRAST)
    assert not low, low


@pytest.mark.parametrize("size", [WIDE, TABLET, PHONE], ids=["wide", "tablet", "phone"])
def test_the_page_fits_into_windows_of_every_size(
    open_page: Open, size: tuple[int, int], tmp_path: Path
) -> None:
    page = open_page(size, has_touch=size != WIDE)
    page.add_classes("wall", "floor", "a class with a name that is rather long for its row")
    width, height = page.page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    )
    assert (width, height) == size
    box = page.page.locator("#canvas").bounding_box()
    assert min(box["width"], box["height"]) > 300
    for name in ("#next", "#undo", "#score-text"):
        page.page.locator(name).scroll_into_view_if_needed()
        where = page.page.locator(name).bounding_box()
        assert where["x"] >= 0
        assert where["x"] + where["width"] <= size[0]
    if size != WIDE:
        page.page.locator("#show-images").click()
        page.page.locator("#list").get_by_text("room 3.png").click()
        page.wait_for_text("image-name", "room 3")
        assert page.page.locator("#images").is_hidden()
    page.page.screenshot(path=tmp_path / "page.png")


def test_pictures_of_the_guide(open_page: Open, rooms: Path, tmp_path: Path) -> None:
    """The pictures of docs/studio.md, written to the folder that ``PICTURES`` names."""
    folder = Path(os.environ.get(PICTURES, tmp_path))
    page = open_page((1280, 900))
    page.add_classes(*GROUPS)
    for number in (4, 3, 2, 1):
        if number == 1:
            page.wait_for_text("score-text", "3 labelled images", seconds=300)
        page.page.locator("#list").get_by_text(f"room {number}.png").click()
        page.wait_for_text("image-name", f"room {number}")
        page.wait_for_picture()
        paint_classes(page, rooms, number, each=4)
    page.wait_until_saved()
    page.wait_for_text("score-text", "4 labelled images", seconds=300)
    page.wait_for_text("learner", "ready", seconds=300)
    page.page.reload()
    page.wait_for_text("prediction-note", "up to date")
    page.page.wait_for_timeout(3000)  # for the thumbnails
    save_picture(page.page, folder / "studio_page.png")

    page.page.emulate_media(color_scheme="dark")
    page.page.keyboard.press("p")
    page.page.keyboard.press("u")
    page.page.locator("#opacity").fill("90")
    page.page.locator("#opacity").blur()
    page.page.wait_for_timeout(3000)
    save_picture(page.page, folder / "studio_uncertainty.png")

    phone = open_page(PHONE, has_touch=True)
    phone.wait_for_text("prediction-note", "up to date")
    phone.page.wait_for_timeout(1000)
    save_picture(phone.page, folder / "studio_phone.png")


def save_picture(page: Any, path: Path) -> None:
    """Write what the window shows, in few colours."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    assert path.stat().st_size <= 150_000
