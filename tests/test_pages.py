"""Code blocks of the pages are run; those that train for long or download are only parsed."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from diffsight import recipes
from diffsight.cli import COMMANDS, main
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.hub.build import check, check_call
from diffsight.training.fit import fit
from tests.support_pages import (
    PAGES,
    ROOT,
    Block,
    Command,
    inline_commands,
    parse_command,
    parser_options,
    read_blocks,
    read_commands,
    relative,
    why_not_run,
    with_reductions,
)
from tests.support_workspace import TOY_FOLDER, write_stand_in, write_workspace

SETUP = ("pip install -e . && diffsight demo", "pip install -e '.[dev]' && pytest")
TOY = "toy_extension"
GROUPS = ["Get started", "Guides", "Methods", "Extend", "API"]
# patterns of numbers in Python blocks, and their smaller replacements
LESS = {r"\b(count=|range\()\d+": r"\g<1>2", r"\bsize=\d+": "size=32"}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Path:
    """Return a folder with the files that the pages use; tests must not change it."""
    return write_workspace(tmp_path_factory.mktemp("workspace") / "files", pipeline_folder)


@pytest.fixture
def workspace_copy(
    workspace: Path, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Copy the workspace, make it the current folder, and reduce the work of slow functions."""
    folder = tmp_path / "here"
    shutil.copytree(workspace, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(TOY_FOLDER)
    from diffsight.adaptation import adapt, distil
    from diffsight.benchmark import run
    from diffsight.benchmark.units import Settings
    from diffsight.inference import generate

    less = {"steps": 2, "backbone": "tiny", "short_side": 32, "method": "feature_head"}
    do_less(monkeypatch, adapt, "adapt", **less, device="cpu", minutes=5.0)
    do_less(monkeypatch, distil, "distil", steps=2, batch_size=2)
    do_less(monkeypatch, run, "benchmark", repeats=1, settings=Settings(shots=2, steps=1))
    do_less(monkeypatch, generate, "generate", steps=1)
    yield folder
    sys.modules.pop(TOY, None)  # other tests check that it is not imported


def do_less(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, **options: Any) -> None:
    """Replace a function by one that always uses these options, whatever it is called with."""
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *words, **given: function(*words, **given | options))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_and_shell_blocks_of_a_page_run(page: Path, workspace_copy: Path) -> None:
    names: dict[str, Any] = {}
    missing: set[str] = set()
    for block in read_blocks(page, "python", "bash"):
        if block.language == "python":
            run_python(block, names)
        else:
            check_shell(block)
            for command in read_commands(block.text):
                run_command(block, command, workspace_copy, missing)


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a Python block on less data; ``names`` are the variables of earlier blocks."""
    code = block.text
    for pattern, replacement in LESS.items():
        code = re.sub(pattern, replacement, code)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, block.name, "exec"), names)


def check_shell(block: Block) -> None:
    """Check the syntax of a script, and that the files of the repository that it runs exist."""
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-n"], input=block.text, text=True, capture_output=True)
    assert done.returncode == 0, f"{block.name}: {done.stderr}"
    for script in re.findall(r"\bpython (\S+\.py)", block.text):
        assert (ROOT / script).is_file(), f"{block.name}: {script}"


def run_command(block: Block, command: Command, workspace_copy: Path, missing: set[str]) -> None:
    """Parse a command; run it unless ``why_not_run`` returns a reason."""
    at = f"{block.name}: diffsight {command.name}"
    try:
        parse_command(command.name, command.words)
    except (SystemExit, ValueError) as error:
        if not (isinstance(error, SystemExit) and error.code == 0):
            pytest.fail(f"{at}: {error}")
    if why_not_run(command, workspace_copy, missing) is not None:
        missing |= missing_outputs(command, workspace_copy)
        return
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main([command.name, *with_reductions(command)])
        except SystemExit as end:
            status = end.code
    assert status in (0, None), f"{at}: {errors.getvalue()}"
    if command.writes:
        (workspace_copy / command.writes).write_text(output.getvalue())


def missing_outputs(command: Command, workspace_copy: Path) -> set[str]:
    """Write a stand-in for the output of a training; return outputs that are still missing."""
    out, recipe = command.value_of("--out"), command.value_of("--recipe")
    if out is None or (workspace_copy / out / "model").exists():
        return set()
    if command.name in ("fit", "pretrain") and recipe and not (workspace_copy / out).exists():
        trusted = [word for word in (command.value_of("--trust"),) if word]
        if write_stand_in(workspace_copy / out, recipes.find(recipe), trusted):
            return set()
    return {out, f"{out}/model"}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_constructor_calls_and_json_in_a_page_are_valid(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TOY_FOLDER)
    for block in read_blocks(page, "yaml"):
        values = yaml.safe_load(block.text)
        if "class_path" in values:
            check(values, trusted=[TOY])
        else:
            check_call(fit, values, options=("augment",), trusted=[TOY])
    for block in read_blocks(page, "json"):
        json.loads(block.text)
    sys.modules.pop(TOY, None)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_are_in_shell_blocks_and_use_existing_options(page: Path) -> None:
    for block in read_blocks(page, "", "text", "console", "sh"):
        commands = list(read_commands(block.text))
        assert not commands, f"{block.name}: write ```bash before commands"
    for line, command in inline_commands(page):
        assert command.name in COMMANDS, f"{relative(page)}:{line}: diffsight {command.name}"
        flags = {word.partition("=")[0] for word in command.words if word.startswith("--")}
        unknown = {flag for flag in flags - parser_options(command.name) if "." not in flag}
        assert not unknown, f"{relative(page)}:{line}: diffsight {command.name}: {unknown}"
        recipe = command.value_of("--recipe")
        assert recipe is None or recipe.isupper() or recipe in recipes.names(), f"{line}: {recipe}"


def test_the_readme_has_the_two_setup_commands_and_ci_runs_the_second() -> None:
    readme = "".join(block.text for block in read_blocks(ROOT / "README.md", "bash")).splitlines()
    assert set(SETUP) <= set(readme)
    assert SETUP[1] in (ROOT / ".ci" / "run").read_text()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_page_of_commands_lists_every_command_once() -> None:
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `diffsight ([\w-]+)` \|", text, re.MULTILINE) == list(COMMANDS)


def test_every_page_is_in_one_of_five_groups() -> None:
    blocks = read_blocks(ROOT / "docs" / "index.md", "{toctree}")
    captions = [re.findall(r"^:caption: (.*)$", block.text, re.MULTILINE) for block in blocks]
    assert captions == [[group] for group in GROUPS]
    lines = [line for block in blocks for line in block.text.splitlines()]
    listed = [line for line in lines if line and not line.startswith(":")]
    pages = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in PAGES[2:]}
    assert sorted(listed) == sorted(pages - {"index"})


def test_the_mask_drawn_in_the_readme_is_read_by_adapt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (640, 480), (120, 160, 220)).save("photos/beach.jpg")
    (block,) = (b for b in read_blocks(ROOT / "README.md", "python") if "polygon" in b.text)
    run_python(block, {})
    folder = read_labelled_folder(Path("photos"), Path("masks"), LabelFormat("segmentation"))
    assert folder.ids == (0, 1)
    assert folder.colours == ((40, 40, 40), (0, 130, 200))
    sky = folder.samples[0].labels["semantic"].float().mean()
    assert 0.4 < float(sky) < 0.45  # the polygon covers 200 of 480 rows


def test_commands_are_read_from_scripts() -> None:
    script = (
        "pip install . && diffsight demo  # a comment\n"
        "diffsight predict 'a b/*.jpg' --model m \\\n    --out o\n"
        "diffsight recipes rooms/vpd_depth > mine.yaml; echo diffsight show\n"
    )
    assert list(read_commands(script)) == [
        Command("demo", ()),
        Command("predict", ("a b/*.jpg", "--model", "m", "--out", "o")),
        Command("recipes", ("rooms/vpd_depth",), "mine.yaml"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fit --recipe rooms/vpd_depth --out runs/a", "it trains for minutes"),
        ("fit --recipe rooms/vpd_depth --print_config", None),
        ("convert vpd-depth a.pth --out a", "it downloads networks"),
        ("predict a.jpg --model MODEL --out b", "MODEL is a placeholder"),
        ("predict a.jpg --model gone --out b", "gone is not there"),
        ("predict a.jpg --model owner/name --out b", "owner/name is a network"),
        ("evaluate --model a --data Folder root=gone", "root=gone is a data set"),
        ("evaluate --model a --data Folder root=data", None),
        ("predict a.jpg --model a.safetensors --out b", None),
    ],
)
def test_only_fast_commands_whose_files_exist_are_run(
    line: str, reason: str | None, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (command,) = read_commands(f"diffsight {line}")
    why = why_not_run(command, tmp_path, {"gone"})
    assert why is None if reason is None else (why or "").startswith(reason)


@pytest.mark.parametrize(
    "line",
    ["predict a --model m --out o --nowhere", "adapt --kind sky", "fit --recipe no/such --out o"],
)
def test_wrong_commands_are_refused(line: str) -> None:
    (command,) = read_commands(f"diffsight {line}")
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises((SystemExit, ValueError)):
        parse_command(command.name, command.words)
