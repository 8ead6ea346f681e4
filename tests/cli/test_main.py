"""The command line as a whole: help, imports, exit status and error messages."""

import importlib
import itertools
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support_pages import parse_command

from diffsight import cli, recipes
from diffsight.errors import InputError

HEAVY = ("torchvision", "diffusers", "transformers", "lightning", "gradio", "scipy", "matplotlib")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


def test_importing_the_package_imports_nothing_heavy() -> None:
    names = json.loads(
        python("import diffsight, json, sys; print(json.dumps(list(sys.modules)))").stdout
    )
    loaded = {name.partition(".")[0] for name in names}
    assert "diffsight" in loaded
    assert not loaded & {*HEAVY, "torch", "numpy", "rich", "huggingface_hub"}


def test_running_a_model_imports_neither_lightning_nor_gradio() -> None:
    program = (
        "import json, sys, diffsight\n"
        "diffsight.pipeline, diffsight.load, diffsight.save\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = python(program)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "torch" in loaded
    assert not loaded & {"torchvision", "lightning", "gradio", "matplotlib"}


def test_help_imports_no_library() -> None:
    program = (
        "import sys\n"
        "from diffsight.cli import main\n"
        "status = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'rich', 'jsonargparse'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    for command in cli.COMMANDS:
        assert command in done.stdout


def test_help_is_fast() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "diffsight", "--help"], check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.main([command, "--help"])
    except SystemExit as stop:
        status = stop.code
    assert status == 0
    assert f"diffsight {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_help_ends_with_a_valid_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    (example,) = capsys.readouterr().out.partition("\n\nexample: ")[2].splitlines()
    program, name, *arguments = shlex.split(example.partition(" > ")[0])
    assert (program, name) == ("diffsight", command)
    parse_command(command, arguments)
    for option, value in itertools.pairwise((command, *arguments)):
        if option in ("--recipe", "recipes"):
            assert value in recipes.names()


@pytest.mark.parametrize("command", ["adapt", "predict", "evaluate", "doctor", "models", "recipes"])
def test_help_of_a_command_imports_no_torch(command: str) -> None:
    program = (
        "import sys\n"
        "from diffsight.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(int(bool({'torch', 'rich'} & set(sys.modules))))"
    )
    assert python(program, command).returncode == 0


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("diffsight 0.")


def test_an_unknown_command_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predcit"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffsight: unknown command 'predcit'")
    assert "predict" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (InputError("a.png: bad\n  news"), 2, "diffsight: a.png: bad news\n"),
        (
            OSError(28, "No space left on device", "out/a"),
            1,
            "No space left on device (out/a): check the path, its permissions and the free space\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_printed_in_one_line(
    raised: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from diffsight.cli import doctor

    def fail(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr(doctor, "main", fail)
    assert cli.main(["doctor"]) == status
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("fit", "choose a smaller --batch_size"),
        ("generate", "choose a smaller --size"),
        ("benchmark", "choose a smaller --short-side"),
        ("caption", "choose a smaller --batch-size"),
        ("evaluate", "choose a smaller --short-side or --batch-size, or --tile"),
        ("latent-std", "choose a smaller crop in the recipe"),
        ("doctor", "run it on a machine with more"),
    ],
)
@pytest.mark.parametrize("is_gpu", [False, True])
def test_too_little_memory_is_reported_in_one_line_with_advice(
    command: str,
    advice: str,
    is_gpu: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    def fail(argv: list[str]) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory") if is_gpu else MemoryError

    module = importlib.import_module(f"diffsight.cli.{command.replace('-', '_')}")
    monkeypatch.setattr(module, "main", fail)
    assert cli.main([command]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"diffsight: {command}: not enough memory: {advice}")
    assert error.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffsight.cli import doctor

    def fail(argv: list[str]) -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(doctor, "main", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["doctor"])


def test_a_closed_pipe_is_no_error() -> None:
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'diffsight', 'doctor', '--json'],\n"
        "    stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "child.stdout.close()\n"
        "sys.stdout.write(child.stderr.read().decode())\n"
        "sys.exit(child.wait())"
    )
    done = python(program)
    assert (done.returncode, done.stdout) == (0, "")


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[31mred.txt"
    assert (
        cli.main(["text-table", str(path), "--encoder", "tiny", "--out", str(tmp_path / "a")]) == 2
    )
    assert "\x1b" not in (text := capsys.readouterr().err)
    assert "[31mred.txt" in text
