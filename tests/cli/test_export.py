"""``diffsight export``: files, messages and exit statuses."""

import json
from pathlib import Path

import pytest
from tests.support_cli import photo
from tests.support_export import Different, toy
from tests.support_workspace import student_model

from diffsight import cli
from diffsight.hub import save
from diffsight.inference import onnx_file


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Return the file of a small saved model."""
    return save(student_model(), tmp_path / "student.safetensors")


def export(*arguments: object) -> int:
    """Run the command for a traced size of 16 px, or another one; return its exit status."""
    size = () if "--size" in arguments else ("--size", "16")
    return cli.main(["export", *size, *map(str, arguments)])


def test_the_file_is_named_after_the_model(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    student.rename("student.v2.safetensors")
    assert export("--model", "student.v2.safetensors", "--format", "torch") == 0
    line = capsys.readouterr().out
    assert line.startswith(
        "student.v2.pt2: sides are multiples of 4 px; differs from diffsight by "
    )
    assert {one.name for one in tmp_path.iterdir()} == {
        "student.v2.safetensors",
        "student.v2.pt2",
        "student.v2.pt2.json",
    }


def test_json_prints_the_record_that_is_written(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "x.onnx"
    assert (
        export("--model", student, "--out", out, "--json", "--images", photo(tmp_path / "a.png"))
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "x.onnx.json").read_text())
    assert record["certificate"]["images"] == 1
    assert record["model"]["fingerprint"]
    assert record["model"]["task"]["init_args"]["max_depth_m"] == 10.0


def test_an_existing_file_is_replaced_only_with_overwrite(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "x.pt2"
    out.write_text("precious")
    arguments = ("--model", student, "--format", "torch", "--out", out)
    assert export(*arguments) == 2
    assert f"{out}: exists already: choose another --out, or give" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert export(*arguments, "--overwrite") == 0
    assert out.stat().st_size > 1000


def test_an_exported_file_is_no_model(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "x.pt2"
    assert export("--model", student, "--format", "torch", "--out", out) == 0
    assert cli.main(["show", str(out)]) == 2
    line = f"{out}: is a file of `diffsight export`, for other runtimes: give the model that"
    assert line in capsys.readouterr().err


def test_a_certificate_above_the_tolerance_ends_with_status_4(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffsight.hub.load", lambda *_, **__: toy(Different))
    out = tmp_path / "x.pt2"
    assert export("--model", "m", "--format", "torch", "--out", out) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"diffsight: {out}: not written: its output values differs")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--size", "10", "12"), 2, "--size 10 12: "),
        (("--size", "1", "2", "3"), 2, "--size 1 2 3: give one or two numbers"),
        (("--max-side", "0"), 2, "--max-side must be at least 1"),
        (("--format", "tflite"), 2, "invalid choice: 'tflite'"),
        (("--out", "no/such/folder/x.onnx"), 2, "no/such/folder/x.onnx: cannot be written"),
    ],
)
def test_bad_input_gives_one_line(
    student: Path,
    capsys: pytest.CaptureFixture,
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    assert export("--model", student, *options) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_missing_extra_ends_with_status_3(
    student: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(onnx_file, "LIBRARIES", ("no_such_library",))
    assert export("--model", student) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "diffsight: no_such_library is not installed: pip install 'diffsight[export]'"
