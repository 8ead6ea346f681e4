"""``diffsight studio --example`` begins with rendered rooms and classes."""

from pathlib import Path

import pytest
from tests.support_studio import Server, studio, write_photographs

from diffsight import cli
from diffsight.studio import example
from diffsight.studio.images import list_photographs


def test_the_example_has_rooms_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rooms"
    monkeypatch.setattr(example, "SIZE", (48, 64))
    example.write_example(folder)
    assert list_photographs(folder) == [f"room{i:02d}.png" for i in range(12)]
    times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    with studio(folder, "--example") as server:
        project = server.send("GET", "/api/project").json
        assert [one["name"] for one in project["classes"]] == ["wall", "floor", "furniture"]
        assert len(project["images"]) == 12
        assert server.stop() == 0
    assert [path.stat().st_mtime_ns for path in sorted(folder.glob("room*"))] == times


def test_a_folder_with_other_images_is_no_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holiday.jpg").touch()
    assert cli.main(["studio", str(tmp_path), "--example", "--port", "0", "--no-open"]) == 2
    assert "has other images (holiday.jpg): leave --example out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_an_end_while_the_thread_still_works_is_no_crash(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photos", 1)
    code = (
        "import sys; from diffsight import cli; from diffsight.studio import learner; "
        "learner.CLOSE_S = 0; sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ("studio", str(folder), "--port", "0", "--no-open")
    with Server(*arguments, start=("-c", code)) as server:
        assert server.send("GET", "/api/project").status == 200
        assert server.stop() == 0  # the thread is loading the libraries
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""
