"""Work on a small Ray cluster of this machine: results, ended workers, restarts and messages."""

import fcntl
import json
import os
import pickle
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support_cli import photo
from tests.support_cli import predict as run
from tests.support_cluster import killed_worker, multiplier, worker_processes
from tests.support_models import tiny

from diffsight import cli
from diffsight.errors import InputError
from diffsight.hub import save
from diffsight.inference import ray_engine
from diffsight.inference.ray_engine import Cluster, import_ray, map_groups

pytestmark = pytest.mark.slow  # Ray starts a dozen processes
RAY = ("--engine", "ray", "--workers", "2", "--threads", "1")
TWO = Cluster(workers=2, threads=1)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start a cluster with two processors for all tests; ``map_groups`` uses it."""
    ray = import_ray(Cluster())
    options = {"include_dashboard": False, "log_to_driver": False, "num_cpus": 2}
    ray.init("local", object_store_memory=ray_engine.MIN_STORE_BYTES, **options)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny(), tmp_path_factory.mktemp("models") / "depth")


def write_photos(folder: Path) -> Path:
    """Write 11 images in two sizes, and a damaged one."""
    for i in range(12):
        photo(folder / ("trip" if i % 3 else ".") / f"{i:02}.png", 24, 24 + 8 * (i % 2))
    (folder / "trip" / "05.png").write_bytes(b"damaged")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def printed_lines(text: str) -> list[dict[str, Any]]:
    return [{**json.loads(line), "folder": ""} for line in text.splitlines()]


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """Yield a path of a folder that only this process has."""
    number = os.open(path, os.O_RDONLY)
    high = fcntl.fcntl(number, fcntl.F_DUPFD, 700)  # other processes have fewer open files
    os.close(number)
    try:
        yield Path(f"/proc/self/fd/{high}")
    finally:
        os.close(high)


def row_of(number: int) -> dict[str, Any]:
    return {"index": 0, "group": pickle.dumps(number)}


class Stop(KeyboardInterrupt):
    """Ends the driver as Ctrl-C does."""


def test_an_interrupted_run_with_a_killed_worker_gives_the_files_of_one_process(
    depth_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos, wanted, out = write_photos(tmp_path / "photos"), tmp_path / "wanted", tmp_path / "out"
    plan = ("--flip", "--batch-size", "2", "--json")
    assert run(depth_model, photos, "--out", wanted, *plan) == 1
    lines = printed_lines(capsys.readouterr().out)

    from diffsight.cli import predict

    add_image = predict._Summary.add_image

    def stop_later(summary: Any, *arguments: Any) -> None:
        add_image(summary, *arguments)
        if len(list(out.rglob("*.json"))) > 2:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(predict._Summary, "add_image", stop_later)
        assert run(depth_model, photos, "--out", out, *plan, *RAY) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert before

    def has_new_results() -> bool:
        return len(list(out.rglob("*.json"))) > len(before)

    if len(before) < 11:
        with killed_worker(has_new_results):
            assert run(depth_model, photos, "--out", out, *plan, *RAY) == 1
    else:
        assert run(depth_model, photos, "--out", out, *plan, *RAY) == 1
    printed = capsys.readouterr()
    assert files_of(out) == files_of(wanted)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert printed_lines(printed.out) == lines
    assert "11 of 12 images" in printed.err
    assert f"{len(before)} of 12 results are of the interrupted run" in printed.err


def test_results_come_in_order_without_the_group_that_ends_its_workers() -> None:
    with killed_worker(lambda: bool(worker_processes())) as killed:
        results = list(map_groups(list(range(12)), multiplier(3, 7), TWO))
    assert killed
    assert results == [(i, 3 * i) for i in range(12) if i != 7]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (-1, InputError, r"^-1 is negative: give a positive number$"),
        (101, RuntimeError, r"(?s)a worker failed: Traceback.*ZeroDivisionError: 101"),
    ],
)
def test_errors_of_a_worker_reach_the_driver(
    number: int, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:  # restores the current folder
        patch.chdir(tmp_path)
        worker = ray_engine._Worker(pickle.dumps(multiplier(3)), 1, str(tmp_path))
        assert ray_engine._open(pickle.loads(worker(row_of(2))["result"])) == 6
        with pytest.raises(kind, match=message):
            ray_engine._open(pickle.loads(worker(row_of(number))["result"]))


def test_urls_give_the_same_files_as_in_one_process(depth_model: Path, tmp_path: Path) -> None:
    photos = f"file://{write_photos(tmp_path / 'photos')}"
    assert run(depth_model, photos, "--out", f"file://{tmp_path / 'wanted'}") == 1
    assert run(depth_model, photos, "--out", f"file://{tmp_path / 'out'}", *RAY) == 1
    wanted = files_of(tmp_path / "wanted")
    assert len(wanted) == 3 * 11
    assert files_of(tmp_path / "out") == wanted


def test_scores_of_a_cluster_are_those_of_one_process(
    depth_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", "Rooms", "split=val", "count=5", "size=32", "--model", str(depth_model))
    reports = []
    for more in ((), RAY):
        words = (*data, "--uncertainty", "--flip", "--device", "cpu", "--json", *more)
        assert cli.main(["evaluate", *words]) == 0
        reports.append(json.loads(capsys.readouterr().out))
        del reports[-1]["seconds_per_image"]
    assert reports[0] == reports[1]


def test_a_folder_or_a_model_of_another_machine_is_refused(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path of an open file is another one in every process, as paths on other machines are."""
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    for kind, path in (("model", depth_model), ("out", out)):
        with open_folder(path) as local:
            model = local if kind == "model" else depth_model
            folder = local if kind == "out" else out
            assert run(model, image, "--out", folder, *RAY) == 2
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        expected = "no such file or folder" if kind == "model" else "does not see the folder"
        assert f"{local}: " in errors
        assert expected in errors
        assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--workers", "5", "--threads", "1"), "5 workers with 1 processors each do not fit"),
        (("--threads", "3"), "1 workers with 3 processors each do not fit"),
        (("--device", "cuda"), "--device cuda: the cluster has no GPU: give --device cpu"),
    ],
)
def test_workers_that_do_not_fit_are_refused(
    more: tuple[str, ...],
    message: str,
    depth_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = photo(tmp_path / "a.png")
    words = ["predict", str(image), "--model", str(depth_model), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--engine", "ray", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def node(cpus: float, gpus: float = 0.0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(
    ("nodes", "wanted", "fitted"),
    [
        ([node(8), node(32)], Cluster(), (2, 16, {"num_cpus": 16})),
        ([node(8), node(32)], Cluster(workers=5), (5, 8, {"num_cpus": 8})),
        ([node(8), node(32)], Cluster(workers=20, threads=2), (20, 2, {"num_cpus": 2})),
        ([node(8), node(0), node(8, alive=False)], Cluster(), (1, 8, {"num_cpus": 8})),
        ([node(16, 4), node(16, 2)], Cluster(), (6, 4, {"num_gpus": 1})),
        ([node(16, 4), node(16, 2)], Cluster(device="cpu"), (2, 16, {"num_cpus": 16})),
    ],
)
def test_workers_are_fitted_to_the_machines(
    nodes: list[dict[str, Any]], wanted: Cluster, fitted: tuple[int, int, dict[str, int]]
) -> None:
    assert ray_engine._fit_workers(nodes, wanted) == fitted


def test_workers_that_cannot_start_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray_engine, "START_S", 2)

    class Busy:
        def wait(self) -> None:
            """Return when the actor runs."""

    busy = ray.remote(num_cpus=2)(Busy).remote()
    ray.get(busy.wait.remote())
    try:
        with pytest.raises(InputError, match=r"^2 workers did not start within 2 s: other prog"):
            list(map_groups([1, 2], multiplier(3), TWO))
    finally:
        ray.kill(busy)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no cluster there (Connection refused)"),
        ("nowhere", "give HOST:PORT of a Ray cluster, or auto"),
        ("a..b:6379", "no cluster there (not the name of a machine)"),
        ("ray://head:10001", "give HOST:PORT of a Ray cluster, or auto"),
        ("silent", "no cluster there (timed out)"),
    ],
)
def test_an_address_without_a_cluster_is_refused_within_seconds(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(ray_engine, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "silent":
            address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=re.escape(f"--address {address}: {message}")):
            next(map_groups([1], multiplier(3), Cluster(address)))


def test_options_of_a_cluster_need_the_engine_and_ray(
    depth_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert run(depth_model, image, "--out", out, "--workers", "2") == 2
    assert "--workers is for --engine ray" in capsys.readouterr().err
    assert run(depth_model, image, "--out", out, "--engine", "ray", "--threads", "0") == 2
    assert "--threads must be at least 1" in capsys.readouterr().err
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    assert run(depth_model, image, "--out", out, *RAY) == 3
    assert "ray is not installed: pip install 'diffsight[ray]'" in capsys.readouterr().err
    assert not out.exists()
