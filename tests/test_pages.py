"""What the pages tell people to type is well formed, exists, and where it is cheap is run."""

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import diffsight
from diffsight.backbones import StableDiffusion
from diffsight.cli import COMMANDS
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.heads import DeconvHead
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import Merging
from diffsight.prompts import TextTable
from diffsight.tasks import Depth
from tests.backbones.conftest import SMALL

ROOT = Path(__file__).parent.parent
SETUP = ("pip install -e . && diffsight demo", "pip install -e '.[dev]' && pytest")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("[!_]*.md"))]


def model() -> DenseModel:
    method = partial(
        VPD,
        backbone=StableDiffusion(SMALL),
        prompts=TextTable(("kitchen", "office"), dim=24),
        neck=partial(Merging, width=48, groups=8),
        head=partial(DeconvHead, widths=(8, 8, 8), width=12),
    )
    return DenseModel(task=Depth(), method=method)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_code_in_pages_is_well_formed(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, relative(page), "exec")
    bash = shutil.which("bash")
    assert bash
    for block in blocks(page, "bash"):
        done = subprocess.run([bash, "-n"], input=block, text=True, capture_output=True)
        assert done.returncode == 0, f"{relative(page)}: {done.stderr}\n{block}"


def test_commands_in_pages_exist() -> None:
    for page in PAGES:
        for block in blocks(page, "bash"):
            used = set(re.findall(r"\bdiffsight ([a-z][a-z-]*)", block))
            assert used <= COMMANDS.keys(), f"{relative(page)}: {used - COMMANDS.keys()}"


def test_two_commands_set_everything_up_and_ci_runs_the_second() -> None:
    readme = "".join(blocks(ROOT / "README.md", "bash")).splitlines()
    assert set(SETUP) <= set(readme)
    assert SETUP[1] in (ROOT / ".ci" / "run").read_text()


def test_readme_draws_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (640, 480), (120, 160, 220)).save("photos/beach.jpg")
    diffsight.save(model(), "runs/my-rooms/model")
    Image.new("RGB", (50, 40), (120, 90, 60)).save("photo.jpg")
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    folder = read_labelled_folder(Path("photos"), Path("masks"), LabelFormat("segmentation"))
    assert folder.ids == (0, 1)
    assert folder.colours == ((40, 40, 40), (0, 130, 200))
    sky = folder.samples[0].labels["semantic"].float().mean()
    assert 0.4 < float(sky) < 0.45  # 200 of 480 rows
    assert names["prediction"].depth_m.shape == (40, 50)
    assert 0 < names["near"] < 10
