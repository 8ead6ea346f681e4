"""The page of the studio in the system's Chromium: ``make browser``."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support_browser import (
    GROUPS,
    TABLET,
    Fingers,
    Open,
    StudioPage,
    StudioServer,
    paint_classes,
)

pytestmark = pytest.mark.browser


def test_from_the_first_class_to_the_exported_model(open_page: Open, rooms: Path) -> None:
    page = open_page()
    page.add_classes(*GROUPS)
    paint_classes(page, rooms, 1)
    page.wait_until_saved()
    seconds = page.wait_for_prediction()
    print(f"from the stroke to the new overlay: {seconds:.2f} s")
    count = len(page.strokes())
    before = page.colour_at((320, 20))

    page.page.keyboard.press("1")
    page.draw((300, 20), (340, 20))
    assert page.colour_at((320, 20)) != before  # at once
    page.page.keyboard.press("Control+z")
    page.wait_for_text("message", "Stroke undone")
    assert len(page.strokes()) == count
    page.page.keyboard.press("Control+Shift+z")
    page.wait_for_text("message", "Stroke redone")
    assert len(page.strokes()) == count + 1

    page.page.keyboard.press("n")
    page.wait_for_text("image-name", r"room [2-4]\.png")
    assert page.text("message").strip()  # the reason
    page.page.locator("#export").click()
    page.page.locator("#exported").wait_for(timeout=120_000)
    assert "diffsight adapt" in page.text("exported-command")
    export = page.server.folder / ".diffsight" / "export"
    classes = (export / "classes.txt").read_text()
    assert [name for name in GROUPS if name in classes] == list(GROUPS)
    assert list((export / "labels").glob("*.png"))
    assert (export / "model.safetensors").stat().st_size > 10_000


def test_an_accepted_prediction_is_a_label_until_it_is_taken_back(
    open_page: Open, rooms: Path
) -> None:
    page = open_page()
    page.add_classes(*GROUPS)
    paint_classes(page, rooms, 1)
    page.wait_for_prediction()
    page.page.keyboard.press("a")
    page.wait_for_text("message", "accepted as a label")
    page.wait_for_text("list", "accepted")
    page.page.keyboard.press("p")  # hides the prediction; accepted labels stay in sight
    page.page.keyboard.press("l")
    bare = page.colour_at((5, 5))
    page.page.keyboard.press("l")
    page.wait_until(lambda: page.colour_at((5, 5)) != bare, "the accepted labels")
    page.page.keyboard.press("a")
    page.wait_for_text("message", "taken back")
    page.wait_for_text("list", r"\d strokes")
    page.page.locator("#show-labels:checked").wait_for()
    page.wait_until(lambda: page.colour_at((5, 5)) == bare, "the bare photograph")


def test_a_server_killed_in_the_middle_of_a_stroke_loses_nothing(
    open_page: Open, server: StudioServer
) -> None:
    page = open_page()
    page.add_classes("wall", "floor")
    page.draw((100, 100), (200, 100))
    page.wait_until_saved()
    page.draw((100, 200), (200, 200), ends=False)
    server.kill()
    page.page.mouse.move(*page.at((300, 220)), steps=5)
    page.page.mouse.up()
    page.wait_for_text("banner", "cannot be reached.*1 stroke is kept")
    page.draw((100, 300), (200, 300))  # goes on without a server
    page.wait_for_text("banner", "2 strokes are kept")
    assert page.kept() == 2
    page.page.keyboard.press("Control+z")
    page.wait_for_text("message", "Not undone")
    server.start()
    page.wait_until_saved()  # by itself
    assert page.page.locator("#banner").is_hidden()
    assert [one["points"][0][1] for one in page.strokes()] == pytest.approx([100, 200, 300], abs=1)
    assert page.strokes()[1]["points"][-1] == pytest.approx([300, 220], abs=1)
    assert page.kept() == 0


def test_strokes_wait_in_the_browser_for_a_server_with_a_new_token(
    chromium: Any, photos: Path
) -> None:
    server = StudioServer(photos, keeps_token=False)
    server.start()
    try:
        page = StudioPage(chromium.new_context().new_page(), server)
        page.open()
        page.add_classes("wall")
        server.kill()
        page.draw((100, 100), (200, 100))
        page.wait_for_text("banner", "1 stroke is kept")
        server.start()
        page.wait_for_text("banner", "Open the address that it prints.*1 stroke is kept")
        page.open()
        page.wait_until_saved()
        page.wait_until(lambda: len(page.strokes()) == 1, "the stroke")
        page.check()
        page.page.context.close()
    finally:
        server.kill()


def test_two_tabs_show_each_others_strokes_and_undo_their_own(open_page: Open) -> None:
    first = open_page()
    first.add_classes("wall")
    second = open_page(context=first.page.context)
    bare = second.colour_at((150, 100)), second.colour_at((150, 300))
    first.draw((100, 100), (200, 100))
    second.wait_until(lambda: second.colour_at((150, 100)) != bare[0], "the other tab's stroke")
    second.draw((100, 300), (200, 300))
    first.wait_until(lambda: first.colour_at((150, 300)) != bare[1], "the other tab's stroke")
    first.page.keyboard.press("Control+z")
    second.wait_until(lambda: second.colour_at((150, 100)) == bare[0], "the other tab's undo")
    (left,) = second.strokes()
    assert left["points"][0][1] == pytest.approx(300, abs=1)


def test_everything_is_done_with_the_keys_alone(open_page: Open) -> None:
    page = open_page()
    keys = page.page.keyboard
    page.page.locator("#class-name").focus()
    keys.type("wall")
    keys.press("Enter")
    page.wait_for_text("class-list", "wall")
    for _ in range(60):  # to the picture by tab alone
        keys.press("Shift+Tab")
        if page.page.evaluate("document.activeElement.id") == "canvas":
            break
    keys.press("ArrowLeft")
    keys.press("Enter")
    page.wait_for_text("message", "Stroke started")
    for _ in range(6):
        keys.press("ArrowRight")
    keys.press("Shift+ArrowDown")
    keys.press("Enter")
    page.wait_for_text("message", "Stroke ended")
    page.wait_until_saved()
    (stroke,) = page.strokes()
    (x0, y0), (x1, y1) = stroke["points"][0], stroke["points"][-1]
    assert x1 - x0 > 20
    assert y1 - y0 == pytest.approx(1, abs=0.11)
    keys.press("PageDown")
    page.wait_for_text("image-name", "room 2")
    page.wait_for_picture()
    keys.press("Enter")
    keys.press("ArrowRight")
    keys.press("Escape")
    page.wait_for_text("message", "Stroke dropped")
    assert page.strokes(1) == []


def test_one_finger_or_a_pen_draws_and_two_fingers_zoom(open_page: Open) -> None:
    page = open_page(TABLET, has_touch=True)
    page.add_classes("wall")
    points = [page.at((x, 200)) for x in (100, 140, 180)]
    fingers = Fingers(page.page)
    fingers.down(points[0])
    for point in points[1:]:
        fingers.move(point)
    fingers.up()
    page.wait_until_saved()
    assert len(page.strokes()) == 1
    zoom = page.text("zoom")
    a, b = page.at((250, 200)), page.at((390, 200))
    fingers.down(a)
    fingers.down(a, b)
    for step in range(1, 6):
        fingers.move((a[0] - 8 * step, a[1]), (b[0] + 8 * step, b[1]))
    fingers.up()
    assert page.text("zoom") != zoom
    page.page.wait_for_timeout(300)
    assert len(page.strokes()) == 1  # the first finger's dot was dropped
    page.page.keyboard.press("f")
    fingers.draw_with_pen(page.at((100, 300)), page.at((180, 300)))
    page.wait_until(lambda: len(page.strokes()) == 2, "the stroke of the pen")
    fingers.down(page.at((300, 100)))
    fingers.move(page.at((300, 200)))
    fingers.up()
    page.page.wait_for_timeout(300)
    assert len(page.strokes()) == 2  # beside a pen, a finger or a palm moves the picture


def test_names_of_users_are_text(open_page: Open, photos: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    (photos / "room 1.png").rename(photos / "a <b>&amp; c.png")
    page = open_page()
    assert page.text("image-name") == "a <b>&amp; c.png"
    page.add_classes(name)
    assert page.page.locator("#class-list label").inner_text().startswith(name)
    assert page.page.locator("#class-list img").count() == 0


def test_classes_are_renamed_and_recoloured(open_page: Open) -> None:
    page = open_page()
    page.add_classes("wal", "floor")
    page.page.keyboard.press("1")
    page.draw((100, 100), (200, 100))
    page.wait_until_saved()
    before = page.colour_at((150, 100))
    page.page.get_by_role("button", name="Change wal").click()
    page.page.locator("#class-list input[type=color]").fill("#00ff00")
    page.page.get_by_label("New name of wal").fill("wall")
    page.page.keyboard.press("Enter")
    page.wait_for_text("class-list", "wall1Edit")
    page.wait_until(lambda: page.colour_at((150, 100)) != before, "the new colour")
    red, green, blue = page.colour_at((150, 100))
    assert green > 200
    assert max(red, blue) < 60


def test_numbers_are_painted_in_place_of_classes(open_page: Open) -> None:
    page = open_page()
    page.page.get_by_role("radio", name="Numbers").check()
    page.page.locator("#numbers").wait_for()
    page.page.fill("#unit", "m")
    page.page.press("#unit", "Enter")
    page.wait_for_text("number-unit", "^m$")
    for number, y in ((1.5, 100), (4, 300)):
        page.page.fill("#number", str(number))
        page.draw((100, y), (500, y))
    page.wait_until_saved()
    assert [one["value"] for one in page.strokes()] == [1.5, 4]
    assert page.page.locator("#kind").is_hidden()
    page.page.keyboard.press("1")
    assert page.page.input_value("#number") == "1.5"


def test_a_photograph_of_48_megapixels_is_painted_in_its_own_pixels(
    open_page: Open, photos: Path
) -> None:
    y, x = np.mgrid[:6000, :8000].astype(np.uint16)
    pixels = np.stack([x // 32, y // 24, (x + y) // 56], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(photos / "a 48 megapixels.jpg", quality=80)
    page = open_page()
    assert page.page.locator("#image-size").text_content().startswith("8\u2009000 ")
    page.add_classes("sky")
    page.draw((1000, 1000), (7000, 5000))
    page.wait_until_saved()
    (stroke,) = page.strokes()
    assert stroke["points"][0] == pytest.approx([1000, 1000], abs=12)
    assert stroke["points"][-1] == pytest.approx([7000, 5000], abs=12)
    assert stroke["radius"] == pytest.approx(160, abs=1)


def test_a_folder_of_500_is_listed_and_searched(open_page: Open, photos: Path) -> None:
    data = io.BytesIO()
    Image.open(photos / "room 1.png").resize((320, 240)).save(data, "JPEG")
    for number in range(500):
        (photos / f"frame {number:03d}.jpg").write_bytes(data.getvalue())
    page = open_page()
    assert page.text("images-count") == "0 of 504 labelled"
    thumbnails = [url for url in page.requests if "side=96" in url]
    assert len(thumbnails) < 60  # only those in sight, and a few below
    page.page.fill("#find", "frame 499")
    page.wait_until(lambda: page.page.locator("#list li:visible").count() == 1, "one row")
    page.page.locator("#list li:visible").click()
    page.wait_for_text("image-name", "frame 499")
    page.wait_for_picture()
    page.page.fill("#find", "")
    page.page.locator("#list").focus()
    page.page.keyboard.press("End")
    page.wait_for_text("image-name", "room 4")
