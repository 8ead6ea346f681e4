"""``diffsight doctor``: checks of sound and broken installations."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffsight.cli import doctor

ANY = ("safetensors>=0.5", 'never-installed; extra == "app"')


def run_doctor(
    *, path: Path | None = None, **variables: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    environment = os.environ | {"HF_HUB_OFFLINE": "0"} | variables
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-m", "diffsight", "doctor", "--json"],
        capture_output=True,
        text=True,
        env=environment,
    )
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, {finding["name"]: finding for finding in report["findings"]}


def stub(root: Path, name: str, body: str) -> Path:
    """Write a fake package ``name`` that is imported instead of the real one; return ``root``."""
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text(body)
    about = root / f"{name}-0.0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
    return root


def test_a_sound_installation_passes() -> None:
    status, findings = run_doctor()
    assert status == 0
    assert findings["torchvision"]["status"] == "ok"
    assert findings["torch"]["detail"]
    assert findings["diffusers"]["status"] == "ok"


def test_for_a_broken_torchvision_the_repair_is_to_uninstall_it(tmp_path: Path) -> None:
    message = "operator torchvision::nms does not exist"
    path = stub(tmp_path, "torchvision", f"raise RuntimeError({message!r})\n")
    status, findings = run_doctor(path=path)
    assert status == 1
    assert findings["torchvision"]["status"] == "broken"
    assert message in findings["torchvision"]["detail"]
    assert findings["torchvision"]["repair"].startswith("pip uninstall torchvision")
    # libraries that import torchvision are reported with the same repair
    broken = [f for f in findings.values() if f["status"] == "broken"]
    assert all("pip uninstall torchvision" in finding["repair"] for finding in broken)
    assert findings["PYTHONPATH"]["status"] == "note"


def test_a_wrong_version_is_reported_with_the_required_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    fake = {"torch": "2.5.1", "safetensors": "0.99"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: fake.get(name) or real(name))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=2.6,<2.14", *ANY])
    (finding,) = [f for f in doctor._packages() if f.status == "broken"]
    assert finding.detail == "torch is 2.5.1, not torch<2.14,>=2.6"
    assert finding.repair == 'pip install "torch<2.14,>=2.6"'


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-thing>=1", *ANY])
    (finding,) = [f for f in doctor._packages() if f.status == "broken"]
    assert finding.detail == "no-such-thing is missing, not no-such-thing>=1"


def test_a_package_that_exits_the_process_on_import_is_reported(tmp_path: Path) -> None:
    status, findings = run_doctor(path=stub(tmp_path, "torch", "import os\nos._exit(9)\n"))
    assert status == 1
    assert "ended the process with status 9" in findings["torch"]["detail"]
    assert "lightning" not in findings


def test_offline_mode_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    findings = {finding.name: finding for finding in doctor._environment()}
    assert "cache only" in findings["HF_HUB_OFFLINE"].detail
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "HF_HUB_OFFLINE" not in {finding.name for finding in doctor._environment()}


def test_a_read_only_cache_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/cache")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/proc")
    (finding,) = [f for f in doctor._storage() if f.name == "hub cache"]
    assert finding.status == "broken"
    assert finding.repair.startswith("export HF_HOME=")


def test_the_table_shows_problems_and_repairs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = doctor.Finding("torch", "broken", "1.0, not torch>=2.6", 'pip install "torch>=2.6"')
    for part in ("_packages", "_imports", "_storage", "_environment"):
        monkeypatch.setattr(doctor, part, lambda part=part: [bad] if part == "_packages" else [])
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert 'pip install "torch>=2.6"' in out
    assert "something is broken" in out
