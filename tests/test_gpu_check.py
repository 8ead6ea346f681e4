"""The script that measures a GPU runs, here with tiny models on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_check.py"


def test_every_row_is_measured_and_written(tmp_path: Path) -> None:
    words = ["--tiny", "--device", "cpu", "--repeats", "1", "--out", tmp_path / "check"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "check.md").read_text() == done.stdout
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    assert names == [
        "product 256 x 256",
        "FewShot (adapt), training step",
        "VPD, prediction",
        "VPD, training step",
        "EVP, prediction",
        "EVP, training step",
    ]
    assert len(rows) == 3 * len(names)
    assert all(row["flops"] > 0 and row["seconds"] > 0 for row in rows)
    # compared with itself, the CPU has no difference in 32 bit and a small one in bfloat16
    differences = {(row["name"], row["precision"]): row["difference"] for row in rows}
    for name in names[1:]:
        assert differences[name, "fp32"] == 0
        assert 0 < differences[name, "bf16"] < 0.5
