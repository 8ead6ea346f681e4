"""``diffsight serve`` answers images until it is stopped."""

from pathlib import Path

import pytest
from tests.support_cli import photo
from tests.support_studio import Server

from diffsight import cli


def test_a_saved_model_is_served(depth_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    arguments = ("--port", "0", "--short-side", "32", "--device", "cpu")
    with Server("serve", str(depth_model), *arguments) as server:
        headers = {"Content-Type": "image/png"}
        answer = server.send("POST", "/predict", body=image.read_bytes(), headers=headers)
        assert (answer.status, answer.json["size"]) == (200, [40, 32])
        assert server.send("GET", "/health").json["task"] == "Depth"
        assert server.send("GET", "/health", headers={"Authorization": "x"}).status == 401
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--queue", "0"), "--queue must be at least 1"),
        (("--max-megabytes", "-1"), "--max-megabytes must be at least 1"),
        (("--port", "99999"), "--port 99999: give a number from 0 to 65535"),
        (("--tile", "5"), "belong together"),
    ],
)
def test_bad_options_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    depth_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["serve", str(depth_model), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(tmp_path / "missing.safetensors"), "--port", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
