"""A real server: kills, two clients, ports, locks, and the way from a stroke to a prediction."""

import contextlib
import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support_studio import Server, opened, stroke, studio, wait_for, write_photographs

from diffsight import cli
from diffsight.errors import InputError
from diffsight.studio.log import SNAPSHOT, RecordLog
from diffsight.studio.server import open_port

# appends records and prints the number of each after it is on disk
WRITER = """
import sys
from pathlib import Path
from diffsight.studio import log
log.MAX_BYTES = 20_000
records = log.RecordLog(Path(sys.argv[1]))
total = (records.snapshot or {"total": 0})["total"] + len(records.take_records())
while True:
    number = records.append({"do": "x", "text": "y" * 500})
    total += 1
    if records.is_long:
        records.compact({"total": total})
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_writer_that_is_killed_loses_no_record_that_it_reported(tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(moments.uniform(0, 0.5))
        writer.kill()
        reported = int((first + writer.communicate()[0]).split()[-1])
        log = RecordLog(tmp_path)
        log.close()
        total = (log.snapshot or {"total": 0})["total"] + len(log.records)
        assert total == log.number
        assert reported <= log.number <= reported + 1
    assert (tmp_path / SNAPSHOT).exists()  # kills during compaction were possible


def test_a_server_that_is_killed_while_two_tabs_paint_loses_nothing(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photos")
    with opened(folder):
        pass  # adds the classes
    stored: set[str] = set()
    for round_number in range(3):
        with studio(folder) as server:
            stop = threading.Event()

            def paint(tab: str, server: Server = server, stop: threading.Event = stop) -> None:
                number = 0
                while not stop.is_set():
                    id = f"{tab}-{number}"
                    path, data = (
                        f"/api/images/{number % 3}/strokes",
                        stroke(id, number % 2, tab=tab),
                    )
                    try:
                        answer = server.send("POST", path, data)
                    except (OSError, http.client.HTTPException):
                        return
                    assert answer.status == 200
                    stored.add(id)
                    number += 1

            tabs = [f"{round_number}-{tab}" for tab in "ab"]
            threads = [threading.Thread(target=paint, args=(tab,)) for tab in tabs]
            for thread in threads:
                thread.start()
            wait_for(lambda tab=tabs[1]: f"{tab}-5" in stored)
            server.kill()
            stop.set()
            for thread in threads:
                thread.join()
        with opened(folder) as project:
            ids = [s.id for i in range(3) for s in project.strokes(i)[0]]
            assert len(ids) == len(set(ids))
            assert stored <= set(ids)
            # what was written but not acknowledged: at most one stroke per tab and kill
            assert len(ids) - len(stored) <= 2 * (round_number + 1)


def test_a_stroke_becomes_a_prediction_and_a_second_server_is_refused(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photos", size=(320, 240))
    with studio(folder) as server:
        assert server.send("GET", "/").status == 200
        second = subprocess.run(
            [sys.executable, "-m", "diffsight", "studio", str(folder), "--port", "0", "--no-open"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 2
        assert "close that studio, or give another --work DIR" in second.stderr
        assert second.stderr.count("\n") == 1
        for name in ("bright", "dark"):
            server.send("POST", "/api/classes", {"name": name})
        server.send("POST", "/api/images/0/open", {})
        for number, y in enumerate((40, 200)):
            points = [[20, y], [300, y]]
            row = stroke(f"s{number}", number, points=points, radius=15)
            assert server.send("POST", "/api/images/0/strokes", row).status == 200
        path = "/api/images/0/prediction.png"
        answer = wait_for(lambda: (a := server.send("GET", path)).status == 200 and a)
        assert answer.headers["content-type"] == "image/png"
        assert server.stop() == 0
    assert not (folder / ".diffsight" / ".lock").exists()


def test_a_stopped_server_ends_its_streams(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(studio(write_photographs(tmp_path / "photos")))
        stream = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        stack.enter_context(stream)
        stream.sendall(
            f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Authorization: Bearer {server.token}\r\n\r\n".encode()
        )
        assert b"text/event-stream" in stream.recv(4096)
        assert server.stop() == 0
        while stream.recv(4096):
            pass  # until the end of the stream


def test_only_this_machine_is_listened_to() -> None:
    with open_port(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_one_line() -> None:
    with open_port(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: in use by another program"):
            open_port(port)
    with pytest.raises(InputError, match="from 0 to 65535"):
        open_port(65536)


def test_without_a_port_a_free_one_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_port(0) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr("diffsight.studio.server.DEFAULT_PORT", port)
        with open_port(None) as other:
            assert other.getsockname()[1] != port


def test_the_last_port_is_tried_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_port(0) as default, open_port(0) as last:
        ports = default.getsockname()[1], last.getsockname()[1]
    monkeypatch.setattr("diffsight.studio.server.DEFAULT_PORT", ports[0])
    with open_port(None, ports[1]) as listener:
        assert listener.getsockname()[1] == ports[1]
        with open_port(None, ports[1]) as other:
            assert other.getsockname()[1] == ports[0]
            with open_port(None, ports[1]) as third:
                assert third.getsockname()[1] not in ports


def test_a_workspace_has_the_same_port_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    with open_port(0) as listener:
        port = listener.getsockname()[1]  # the default is in use
        code = (
            f"import sys; from diffsight import cli; from diffsight.studio import server; "
            f"server.DEFAULT_PORT = {port}; sys.exit(cli.main(sys.argv[1:]))"
        )
        ports, folders = [], []
        for _ in range(2):
            with Server("studio", ".", "--no-open", start=("-c", code)) as server:
                ports.append(server.port)
                folders.append(server.send("GET", "/api/project").json["folder"])
                assert server.stop() == 0
        assert ports[0] == ports[1] != port
        assert folders == 2 * [str(tmp_path / "photos")]  # not "."
        with open_port(ports[1]), Server("studio", ".", "--no-open", start=("-c", code)) as server:
            assert server.port not in ports
            assert server.send("GET", "/api/project").status == 200
            assert server.stop() == 0
            assert server.process.stderr is not None
            assert f"--port {ports[1]}" in server.process.stderr.read()
        (tmp_path / "photos" / ".diffsight" / "port").write_text("x")  # damaged: not used
        with Server("studio", ".", "--no-open", start=("-c", code)) as server:
            assert server.send("GET", "/api/project").status == 200


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert cli.main(["studio", *arguments, "--no-open", "--port", "0"]) == status
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_bad_folders_are_one_line_and_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    assert "no such folder" in refused(capsys, str(missing))
    assert "no images" in refused(capsys, str(empty))
    twins = write_photographs(tmp_path / "twins", 1)
    (twins / "photo0.jpg").touch()
    assert "photo0.jpg and photo0.png would have the same name" in refused(capsys, str(twins))
    assert "give the folder of your photographs, or --example" in refused(capsys)
    assert not missing.exists()
    assert list(empty.iterdir()) == []
    assert len(list(twins.iterdir())) == 2


def test_a_workspace_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photographs(tmp_path / "photos")
    (tmp_path / "file").touch()
    message = refused(capsys, str(folder), "--work", str(tmp_path / "file" / "work"))
    assert "cannot be written" in message
    assert "give another --work DIR" in message or "choose another --work DIR" in message


def test_a_damaged_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_photographs(tmp_path / "photos")
    with opened(folder) as project:
        project.add_stroke(0, stroke("a"))
    path = folder / ".diffsight" / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"photo", b"phono", 1))
    assert "log.jsonl: line 1 is damaged" in refused(capsys, str(folder))


def test_a_missing_extra_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name == "uvicorn" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    message = refused(capsys, str(tmp_path), status=3)
    assert message == "diffsight: uvicorn is not installed: pip install 'diffsight[studio]'\n"
