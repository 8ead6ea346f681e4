"""``diffsight index-nuscenes``: the index file, and damaged or incomplete tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import support_nuscenes

from diffsight import cli
from diffsight.datasets import NuScenes

VERSION = "v1.0-mini"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "nuscenes"
    support_nuscenes.write_nuscenes(folder)
    return folder


def run(root: Path, version: str = VERSION) -> int:
    out = str(root.parent / "index.json")
    return cli.main(["index-nuscenes", "--root", str(root), "--version", version, "--out", out])


def error_of(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of a run that must fail without writing an index."""
    assert run(root) == 2
    assert not (root.parent / "index.json").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("diffsight: ").strip()


def test_the_data_set_reads_the_index(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert run(root) == 0
    assert "3 samples for training, 3 for validation" in caplog.text
    data = NuScenes(root=root, index=root.parent / "index.json", split="val")
    assert [sample.id for sample in data] == ["1-0", "1-1", "1-2"]


def test_the_index_contains_no_absolute_paths(root: Path) -> None:
    assert run(root) == 0
    assert str(root) not in (root.parent / "index.json").read_text()


def test_trainval_has_its_own_split(root: Path) -> None:
    (root / VERSION).rename(root / "v1.0-trainval")
    assert run(root, "v1.0-trainval") == 0
    assert len(NuScenes(root=root, index=root.parent / "index.json", split="val")) == 3


def test_missing_files_are_counted_and_the_first_five_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sorted((root / "samples" / "CAM_BACK").iterdir())
    sweeps = [
        root / "sweeps" / "LIDAR_TOP" / f"LIDAR_TOP-0-{t}000.pcd.bin" for t in (125, 250, 375)
    ]
    for path in (*images[:4], *sweeps):
        path.unlink()
    message = error_of(root, capsys)
    assert message.startswith(f"{root}: 7 of 55 files are missing (first: ")
    assert message.count("/CAM_BACK/") + message.count("/LIDAR_TOP/") == 5
    assert message.endswith("extract v1.0-mini.tgz there")
    (root / "maps" / "expansion" / f"{support_nuscenes.LOCATION}.json").unlink()
    message = error_of(root, capsys)
    assert message.startswith(f"{root}: 8 of 55 files")
    assert "nuScenes-map-expansion-v1.3.zip (into maps)" in message


def test_a_missing_table_is_named_with_its_archive(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = root / VERSION / "ego_pose.json"
    table.unlink()
    assert error_of(root, capsys) == f"{table}: missing: extract v1.0-mini.tgz into {root}"


def test_a_sample_without_a_sensor_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = root / VERSION / "sample_data.json"
    whole = table.read_text()
    for channel in ("CAM_BACK_LEFT", "LIDAR_TOP"):
        table.write_text(whole)

        def remove(rows: list[dict[str, Any]], channel: str = channel) -> None:
            token = f"calibrated-{channel}"
            rows[:] = [
                row
                for row in rows
                if row["sample_token"] != "1-1" or row["calibrated_sensor_token"] != token
            ]

        support_nuscenes.edit_json(table, remove)
        expected = f"{table}: sample 1-1 of scene-0103 has no {channel}: "
        assert error_of(root, capsys).startswith(expected)


def test_errors_of_damaged_tables_are_one_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_after(name: str, edit: Callable[[Any], Any]) -> str:
        path = root / VERSION / f"{name}.json"
        whole = path.read_text()
        support_nuscenes.edit_json(path, edit)
        message = error_of(root, capsys)
        path.write_text(whole)
        assert message.startswith(f"{root / VERSION}")
        assert "extract v1.0-mini.tgz again" in message
        return message

    nan = float("nan")
    assert "not finite" in error_after(
        "ego_pose", lambda rows: rows[0].update(translation=[nan] * 3)
    )
    zero = [0.0] * 4
    assert "zero norm" in error_after("ego_pose", lambda rows: rows[0].update(rotation=zero))
    assert "LIDAR_TOP-0-0" in error_after("ego_pose", lambda rows: rows.pop(0))
    assert "invalid literal" in error_after("scene", lambda rows: rows[0].update(name="a drive"))
    assert "'location'" in error_after("log", lambda rows: rows[0].pop("location"))
    assert "holds no list" in error_after("sensor", lambda rows: rows.append(3))
    assert "'token9'" in error_after("sample_data", lambda rows: rows[3].update(prev="token9"))


def test_only_an_earlier_index_is_replaced(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = root / VERSION / "sample.json"
    before = table.read_bytes()
    arguments = ["index-nuscenes", "--root", str(root), "--version", VERSION, "--out"]
    assert cli.main([*arguments, str(table)]) == 2
    assert "exists already and is not an index of nuScenes: choose" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert cli.main([*arguments, str(root / "none" / "a.json")]) == 2
    assert "there is no such folder: make it" in capsys.readouterr().err
    assert cli.main([*arguments, str(root / "a.json")]) == 0
    assert cli.main([*arguments, str(root / "a.json")]) == 0  # an index may be written again
