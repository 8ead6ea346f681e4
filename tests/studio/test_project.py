"""Labels survive restarts, undo works per tab, and accepted predictions are labels."""

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support_studio import opened, stroke, write_photographs

from diffsight.errors import InputError
from diffsight.studio import log
from diffsight.studio.project import MissingError, Project
from diffsight.studio.state import Score

HW = (48, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photos")


def everything(project: Project) -> Any:
    return [project.strokes(i) for i in project.images], project.classes, project.scores


def test_everything_is_there_after_a_restart(folder: Path) -> None:
    with opened(folder) as project:
        project.add_stroke(0, stroke("a", 0))
        project.add_stroke(0, stroke("b", 1))
        project.add_stroke(2, stroke("c", None))
        project.undo(0, "tab")
        project.change_class(1, "Boden", "#102030")
        project.add_score(Score(3, 51.5, "mIoU, %", True))
        before = everything(project)
    with opened(folder) as project:
        assert everything(project) == before
        assert [one.name for one in project.classes] == ["wall", "Boden"]
        assert project.label_versions().keys() == {0}


def test_compaction_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 900)
    with opened(folder) as project:
        for number in range(20):
            project.add_stroke(number % 3, stroke(f"s{number}", number % 2))
            if number % 4 == 3:
                project.undo(number % 3, "tab")
        project.accept(1, np.zeros(HW, np.uint8))
        before, version = everything(project), project.version
    assert (folder / ".diffsight" / log.SNAPSHOT).exists()
    assert (folder / ".diffsight" / log.LOG).stat().st_size < 2000
    with opened(folder) as project:
        assert everything(project) == before
        assert project.version == version
        assert project.labels(1, HW).is_labelled.all()


def test_a_stroke_that_is_sent_twice_is_stored_once(folder: Path) -> None:
    with opened(folder) as project:
        first = project.add_stroke(0, stroke("a"))
        version = project.version
        assert project.add_stroke(0, stroke("a")) == first
        assert project.version == version
        project.undo(0, "tab")
        assert project.add_stroke(0, stroke("a")) == first  # undone, and it stays undone
        (one,), _ = project.strokes(0)
        assert one.is_undone


def test_undo_and_redo_work_per_tab_and_image(folder: Path) -> None:
    with opened(folder) as project:
        for id, tab, image in (("a", "t1", 0), ("b", "t2", 0), ("c", "t1", 0), ("d", "t1", 1)):
            project.add_stroke(image, stroke(id, tab=tab))
        assert [project.undo(0, "t1")[1] for _ in range(3)] == ["c", "a", None]
        assert [s.id for s in project.strokes(0)[0] if not s.is_undone] == ["b"]
        assert [project.redo(0, "t1")[1] for _ in range(3)] == ["a", "c", None]
        project.undo(0, "t1")
        project.add_stroke(0, stroke("e", tab="t1"))
        assert project.redo(0, "t1")[1] is None  # a new stroke ends it
        assert project.undo(0, "t3")[1] is None


def test_redo_reverses_the_last_undo_and_not_one_before_a_new_stroke(folder: Path) -> None:
    with opened(folder) as project:
        project.add_stroke(0, stroke("a"))
        project.undo(0, "tab")
        project.add_stroke(0, stroke("b"))
        project.undo(0, "tab")
        state = project._state  # as a snapshot stores it
        project._state = type(state).from_json(state.to_json())
        assert [project.redo(0, "tab")[1] for _ in range(2)] == ["b", None]


def test_ids_of_images_stay_when_others_come_and_go(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(folder) as project:
        project.add_stroke(1, stroke("a"))
    write_photographs(folder / "a first folder", 1)
    (folder / "photo0.png").unlink()
    with opened(folder) as project:
        names = {i: one.name for i, one in project.images.items()}
        assert names == {1: "photo1.png", 2: "photo2.png", 3: "a first folder/photo0.png"}
        assert len(project.strokes(1)[0]) == 1
        with pytest.raises(MissingError, match="no image 0"):
            project.add_stroke(0, stroke("b"))
    (folder / "photo1.png").unlink()
    with opened(folder) as project:
        assert project.label_versions() == {}
    assert "1 labelled image(s) are missing, such as photo1.png" in caplog.text


def test_a_prediction_that_is_accepted_fills_the_open_pixels(folder: Path) -> None:
    with opened(folder) as project:
        project.add_stroke(0, stroke("a", 0))
        project.add_stroke(0, stroke("e1", None, points=[[50, 40]]))
        project.accept(0, np.full(HW, 1, np.uint8))
        labels = project.labels(0, HW)
        assert labels.is_labelled.all()
        assert labels.values[11, 20] == 0  # painted
        assert labels.values[40, 50] == 1  # erased before it was accepted
        project.add_stroke(0, stroke("e2", None, points=[[50, 40]]))
        project.add_stroke(0, stroke("b", 0, points=[[5, 40]]))
        labels = project.labels(0, HW)
        assert not labels.is_labelled[40, 50]
        assert labels.values[40, 5] == 0
        project.undo(0, "tab")
        assert project.labels(0, HW).values[40, 5] == 1
        first = project.labels(0, HW)
    with opened(folder) as project:
        again = project.labels(0, HW)
        assert (again.is_labelled == first.is_labelled).all()
        assert (again.values == first.values)[again.is_labelled].all()
        project.take_back(0)
        labels = project.labels(0, HW)
        assert labels.is_labelled[11, 20]
        assert not labels.is_labelled[30, 60]
        assert list((folder / ".diffsight" / "accepted").iterdir()) == []


def test_accepted_numbers_of_a_scalar_keep_their_gaps(folder: Path) -> None:
    with opened(folder, ()) as project:
        project.set_kind("scalar", "K")
        values = np.full((24, 32), 2.5, np.float32)
        values[:12] = np.nan
        project.accept(0, values)
        labels = project.labels(0, HW)
        assert not labels.is_labelled[:24].any()
        assert (labels.values[24:] == 2.5).all()
        project.add_stroke(0, stroke("a", -3.0))
        project.add_stroke(1, stroke("b", 4.5))
        assert project.value_range() == (-3.0, 4.5)


def test_the_kind_can_only_change_before_there_are_labels(folder: Path) -> None:
    with opened(folder) as project:
        project.set_kind("scalar", "K")
        project.set_kind("segmentation", None)
        project.add_stroke(0, stroke("a"))
        project.set_kind("segmentation", None)  # no change
        with pytest.raises(InputError, match="labels already"):
            project.set_kind("scalar", "K")
        with pytest.raises(InputError, match="must be 'segmentation' or 'scalar'"):
            project.set_kind(["scalar"], "K")


def test_the_kind_can_change_when_all_strokes_are_undone(folder: Path) -> None:
    with opened(folder) as project:
        project.add_stroke(0, stroke("a"))
        project.undo(0, "tab")
        project.set_kind("scalar", "K")
        assert project.redo(0, "tab")[1] is None  # the stroke of a class is gone
        project.add_stroke(0, stroke("b", 4.5))
        before = everything(project)
    with opened(folder) as project:
        assert project.kind == "scalar"
        assert everything(project) == before


def test_new_images_of_the_folder_are_added(folder: Path) -> None:
    with opened(folder) as project:
        project.add_stroke(2, stroke("a"))
        (folder / "photo1.png").rename(folder / "another.png")
        project.read_folder()
        names = {i: one.name for i, one in project.images.items()}
        assert names == {0: "photo0.png", 1: "photo1.png", 2: "photo2.png", 3: "another.png"}
        assert project.label_versions().keys() == {2}
        shutil.move(folder, folder.with_name("moved"))
        project.read_folder()
        assert len(project.images) == 4
        shutil.move(folder.with_name("moved"), folder)
    with opened(folder) as project:
        assert {i: one.name for i, one in project.images.items()} == {
            i: name for i, name in names.items() if i != 1
        }


def test_a_new_image_with_the_label_name_of_another_is_reported_and_not_added(
    folder: Path,
) -> None:
    with opened(folder) as project:
        project.read_folder()
        assert project.problem == ""
        (folder / "photo1.webp").touch()
        project.read_folder()
        assert "photo1.png and photo1.webp would have the same name" in project.problem
        assert len(project.images) == 3
        (folder / "photo1.webp").rename(folder / "photo3.webp")
        project.read_folder()
        assert project.problem == ""
        assert len(project.images) == 4
        (folder / "photo3.webp").rename(folder / "PHOTO0.webp")
    with pytest.raises(InputError, match="rename one"), opened(folder):
        pass


def test_a_workspace_keeps_its_id_and_a_new_one_has_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 900)
    with opened(folder) as project:
        first = project.id
        assert len(first) == 32
        for number in range(10):
            project.add_stroke(0, stroke(f"s{number}"))
    assert (folder / ".diffsight" / log.SNAPSHOT).exists()
    with opened(folder) as project:
        assert project.id == first
    shutil.rmtree(folder / ".diffsight")
    with opened(folder) as project:
        assert project.id != first


def test_a_workspace_of_an_earlier_version_gets_an_id(folder: Path) -> None:
    with opened(folder) as project:
        project.add_stroke(0, stroke("a"))
        state = project._state.to_json()
        del state["id"]
        project._log.compact(state)
    with opened(folder) as project:
        first = project.id
        assert len(first) == 32
        assert len(project.strokes(0)[0]) == 1
    with opened(folder) as project:
        assert project.id == first


@pytest.mark.parametrize("unit", [5, 0, [], "K/100", "a\nb", ["K"], "x" * 200])
def test_bad_units_are_refused(folder: Path, unit: Any) -> None:
    with opened(folder) as project, pytest.raises(InputError, match="unit"):
        project.set_kind("scalar", unit)


@pytest.mark.parametrize("name", [None, 5, "", "  ", "a\nb", "#a", "x" * 101, ["a"], "\ud800"])
def test_bad_names_of_classes_are_refused(folder: Path, name: Any) -> None:
    with opened(folder) as project:
        with pytest.raises(InputError, match="name of a class"):
            project.add_class(name)
        assert len(project.classes) == 2


@pytest.mark.parametrize("colour", ["red", "#12345", "#12345g", 5, ["#123456"]])
def test_bad_colours_are_refused(folder: Path, colour: Any) -> None:
    with opened(folder) as project, pytest.raises(InputError, match="#rrggbb"):
        project.add_class("new", colour)


def test_classes_have_different_names_and_colours(folder: Path) -> None:
    with opened(folder) as project:
        with pytest.raises(InputError, match="'wall' already"):
            project.add_class("wall")
        with pytest.raises(InputError, match="'wall' already"):
            project.change_class(1, "wall")
        with pytest.raises(MissingError, match="no class 2"):
            project.change_class(2, "x")
        while len(project.classes) < 255:
            project.add_class(f"class {len(project.classes)}")
        assert len({one.colour for one in project.classes}) == 255
        with pytest.raises(InputError, match="255 classes are the most"):
            project.add_class("one more")


def test_a_stroke_outside_of_the_image_is_refused(folder: Path) -> None:
    with opened(folder) as project:
        with pytest.raises(InputError, match="outside of the image, which has 64 x 48 pixels"):
            project.add_stroke(0, stroke("a", points=[[70, 20], [90, 20]]))
        project.add_stroke(0, stroke("b", points=[[66, 20]]))  # its edge touches the image


def test_many_threads_lose_nothing(folder: Path) -> None:
    """Two tabs paint and undo at the same time, on the same images."""
    kept: dict[str, list[str]] = {}

    def paint(project: Project, tab: str) -> None:
        chance, ids = random.Random(tab), []
        for number in range(30):
            project.add_stroke(number % 3, stroke(f"{tab}-{number}", number % 2, tab=tab))
            ids.append(f"{tab}-{number}")
            if chance.random() < 0.3:
                project.undo(number % 3, tab)
                ids.pop()
        kept[tab] = ids

    with opened(folder) as project:
        threads = [threading.Thread(target=paint, args=(project, tab)) for tab in ("t1", "t2")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with opened(folder) as project:
        for tab, ids in kept.items():
            rows = [s for i in range(3) for s in project.strokes(i)[0] if s.tab == tab]
            assert sorted(s.id for s in rows if not s.is_undone) == sorted(ids)
            assert len(rows) == 30


def test_a_log_cut_off_at_any_byte_opens_with_the_complete_records(folder: Path) -> None:
    with opened(folder) as project:
        for number in range(4):
            project.add_stroke(0, stroke(f"s{number}", number % 2))
        project.undo(0, "tab")
    path = folder / ".diffsight" / log.LOG
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(ends[-4], len(data), 3):
        path.write_bytes(data[:size])
        with opened(folder) as project:
            assert project.version == sum(end <= size for end in ends), size


@pytest.mark.parametrize(
    "record",
    [
        {"do": "stroke", "image": 0, "stroke": {"id": "a"}},
        {"do": "undo", "image": 0, "stroke": "a"},
        {"do": "accept", "image": 0, "file": 2.5},
        {"do": "accept", "image": 0, "file": "../log.jsonl"},
        {"do": "unaccept", "image": 3},
    ],
)
def test_records_that_make_no_sense_are_one_line(folder: Path, record: dict[str, Any]) -> None:
    work = folder / ".diffsight"
    with opened(folder):
        pass
    records = log.RecordLog(work)
    records.append(record)
    records.close()
    with pytest.raises(InputError, match=r"\.diffsight: its log cannot be used"):
        Project(folder, work)


def test_a_damaged_file_of_accepted_labels_is_one_line(folder: Path) -> None:
    with opened(folder) as project:
        project.accept(0, np.zeros(HW, np.uint8))
        (path,) = (folder / ".diffsight" / "accepted").iterdir()
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(InputError, match=r"0-\d+\.png: damaged or cut off") as error:
            project.labels(0, HW)
        assert "\n" not in str(error.value)
