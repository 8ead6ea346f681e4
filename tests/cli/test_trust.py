"""Classes outside diffsight are refused before their import, unless the user trusts them."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.support_cli import photo
from tests.support_models import tiny

from diffsight import cli
from diffsight.cli import recipe
from diffsight.cli.fit import fit_parser
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.hub import save
from diffsight.rooms import Rooms
from diffsight.training.fit import fit

PACKAGE = "foreign_package"
# importing this package, calling its function and calling its class each create a file
SOURCE = """
from pathlib import Path

from diffsight.datasets.base import AbstractDataset
from diffsight.heads import DeconvHead
from diffsight.methods.base import AbstractMethod
from diffsight.outputs import OutputSpec
from diffsight.rooms import Rooms

MARKS = Path({created!r})
(MARKS / "imported").touch()


class Head(DeconvHead):
    pass


class Data(Rooms):
    pass


class NoPart:
    def __init__(self, **options):
        (MARKS / "called").touch()


def builder(*, output: OutputSpec) -> AbstractMethod:
    (MARKS / "called").touch()
    raise AssertionError
"""


@pytest.fixture
def created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder in which the foreign package creates its files."""
    created = tmp_path / "created"
    created.mkdir()
    (tmp_path / f"{PACKAGE}.py").write_text(SOURCE.format(created=str(created)))
    monkeypatch.syspath_prepend(tmp_path)
    yield created
    sys.modules.pop(PACKAGE, None)


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def small_recipe() -> dict[str, Any]:
    """Return a recipe that trains a small model for one step."""
    config: Any = to_config(tiny())
    rooms = to_config(Rooms(count=2, size=64))
    optim = {"class_path": "AdamW", "init_args": {"lr": 1e-4}}
    hidden = {"class_path": "DropPrompt", "init_args": {"probability": 1.0}}
    data = {"train": rooms, "val": rooms, "optim": optim, "augment": [hidden]}
    numbers = {"steps": 1, "batch_size": 2, "workers": 0, "validate_every": 1}
    return {**config["init_args"], **data, **numbers, "protocol": "rooms-v1"}


Change = Callable[[dict[str, Any]], Any]
HEAD, FUNCTION = f"{PACKAGE}.Head", f"{PACKAGE}.builder"


def head_of(value: Any) -> Change:
    return lambda recipe: recipe["method"]["init_args"].update(head=value)


FOREIGN: dict[str, Change] = {
    "a function as a method": lambda r: r.update(method={"class_path": "os.system"}),
    "the name of a function": lambda r: r.update(method="os.system"),
    "a foreign function": lambda r: r.update(method={"class_path": FUNCTION}),
    "a foreign class": lambda r: r["method"]["init_args"]["head"].update(class_path=HEAD),
    "the name of a class": head_of(HEAD),
    "a data set": lambda r: r["train"].update(class_path=f"{PACKAGE}.Data"),
    "a validation set": lambda r: r["val"].update(class_path=f"{PACKAGE}.Data"),
    "a list": lambda r: r.update(augment=[f"{PACKAGE}.Data"]),
    "a value of any type": lambda r: r["method"]["init_args"]["backbone"]["init_args"][
        "architecture"
    ].update(class_path=HEAD),
}
MALFORMED: dict[str, Change] = {
    "a dotted key": lambda r: r.update({"method.head": HEAD}),
    "a dotted key in a call": lambda r: r["method"]["init_args"].update({"head.class_path": HEAD}),
    "arguments without a class": lambda r: r.update(method={"init_args": {"head": HEAD}}),
    "trust": lambda r: r.update(trust=[PACKAGE]),
}


def write(path: Path, change: Change | None = None) -> Path:
    config = small_recipe()
    if change is not None:
        change(config)
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("case", [*FOREIGN, *MALFORMED])
def test_foreign_classes_in_recipes_are_refused(
    case: str, created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "recipe.yaml", (FOREIGN | MALFORMED)[case])
    assert cli.main(["fit", "--plan", "--out", str(tmp_path / "run"), "--recipe", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"diffsight: {path}: ")
    assert error.count("\n") == 1
    assert file_names(created) == set()
    assert not (tmp_path / "run").exists()
    if case in FOREIGN:
        assert "is refused, because importing it could run any code: add --trust" in error


@pytest.mark.parametrize(
    ("command", "case"),
    [
        ("describe", "a foreign class"),
        ("describe", "a foreign function"),
        ("describe", "a value of any type"),
        ("latent-std", "a value of any type"),
        ("latent-std", "a data set"),
    ],
)
def test_other_commands_refuse_foreign_classes_in_recipes(
    command: str, case: str, created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "recipe.yaml", FOREIGN[case])
    assert cli.main([command, "--recipe", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"add --trust {PACKAGE}" in error
    assert error.count("\n") == 1
    assert file_names(created) == set()


def test_commands_accept_trusted_packages(created: Path, tmp_path: Path) -> None:
    for command, case in (("describe", "a foreign class"), ("latent-std", "a data set")):
        path = write(tmp_path / "recipe.yaml", FOREIGN[case])
        assert cli.main([command, "--recipe", str(path), "--trust", PACKAGE]) == 0
    assert file_names(created) == {"imported"}


def test_trusted_packages_are_imported(created: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", FOREIGN["a foreign class"])
    arguments = ["--recipe", str(path), "--out", str(tmp_path / "run")]
    for more in (["--trust", PACKAGE], [f"--trust={PACKAGE}"]):
        settings = recipe.parse(fit_parser(), [*arguments, *more], fit)
        assert settings.method.init_args.head.class_path == HEAD
    assert file_names(created) == {"imported"}
    with pytest.raises(InputError, match="is refused"):
        recipe.parse(fit_parser(), [*arguments, "--trust", PACKAGE[:-1]], fit)


def test_functions_of_trusted_packages_are_not_called(created: Path, tmp_path: Path) -> None:
    for name in ("builder", "NoPart"):
        call = {"class_path": f"{PACKAGE}.{name}"}
        path = write(tmp_path / "recipe.yaml", lambda r, call=call: r.update(method=call))
        arguments = ["--recipe", str(path), "--out", str(tmp_path / "run"), "--trust", PACKAGE]
        with pytest.raises(InputError, match="is not derived from a configurable class"):
            recipe.parse(fit_parser(), arguments, fit)
    assert file_names(created) == {"imported"}


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *itertools.product(
            ("--method", "--method.class_path", "--method.head.class_path"),
            ("os.system", FUNCTION, f"{PACKAGE}.NoPart"),
        ),
        *itertools.product(("--method.head",), (FUNCTION, f"{PACKAGE}.NoPart")),
        ("--method.neck", '{"class_path": "os.system"}'),
        ("--method.init_args", f'{{"neck": {{"class_path": "{FUNCTION}"}}}}'),
    ],
)
def test_functions_and_plain_classes_on_the_command_line_are_not_called(
    option: str, name: str, created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "recipe.yaml")
    arguments = [
        "fit",
        "--recipe",
        str(path),
        "--out",
        str(tmp_path / "run"),
        "--plan",
        option,
        name,
    ]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert "called" not in file_names(created)


def test_classes_on_the_command_line_are_trusted(
    created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "recipe.yaml")
    arguments = ["--recipe", str(path), "--out", str(tmp_path / "run"), "--method.head", HEAD]
    settings = recipe.parse(fit_parser(), arguments, fit)
    assert settings.method.init_args.head.class_path == HEAD
    assert len(recipe.data_of([f"{PACKAGE}.Data", "count=3", "size=32"])) == 3
    model = save(tiny(), tmp_path / "model")
    data = ["--data", f"{PACKAGE}.Data", "count=1", "size=32", "split=val", "--json"]
    assert cli.main(["evaluate", "--model", str(model), "--device", "cpu", *data]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_a_resumed_run_needs_trust(
    created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    write(run / "recipe.yaml", FOREIGN["a foreign class"])
    arguments = ["fit", "--resume", "--plan", "--out", str(run)]
    assert cli.main(arguments) == 2
    assert "add --trust foreign_package" in capsys.readouterr().err
    assert file_names(created) == set()
    assert cli.main([*arguments, "--trust", PACKAGE]) == 0
    assert file_names(created) == {"imported"}


def edit_model(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the configuration of a saved model, in its folder or file."""
    if path.is_dir():
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))
        return
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["diffsight"])
    change(config)
    save_file(tensors, path, metadata | {"diffsight": json.dumps(config)})


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_saved_models_need_trust(
    name: str, created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, image = save(tiny(), tmp_path / name), tmp_path / "a.png"
    photo(image)
    edit_model(path, FOREIGN["a foreign class"])
    data = ["--data", "Rooms", "count=1", "size=32", "split=val"]
    model = ["--model", str(path), "--device", "cpu"]
    commands = {
        "predict": ["predict", str(image), "--out", str(tmp_path / "p"), *model],
        "explain": ["explain", str(image), "--out", str(tmp_path / "e"), *model],
        "evaluate": ["evaluate", *model, *data],
    }
    for arguments in commands.values():
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert f"class '{HEAD}' is refused" in error
        assert error.count("\n") == 1
    assert cli.main(["show", str(path)]) == 0  # imports nothing
    assert f"--trust {PACKAGE}" in capsys.readouterr().out
    assert file_names(created) == set()
    for arguments in commands.values():
        assert cli.main([*arguments, "--trust", PACKAGE]) == 0
    assert file_names(created) == {"imported"}


def test_functions_in_saved_models_are_not_called(created: Path, tmp_path: Path) -> None:
    path, image = save(tiny(), tmp_path / "model"), tmp_path / "a.png"
    edit_model(path, FOREIGN["a foreign function"])
    arguments = ["predict", str(image), "--out", str(tmp_path / "p"), "--model", str(path)]
    assert cli.main(arguments) == 2
    assert cli.main([*arguments, "--trust", PACKAGE]) == 2
    assert "called" not in file_names(created)


def test_the_recipe_of_a_model_needs_trust(
    created: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ``--data``, ``evaluate`` reads the validation set from the recipe."""
    model = save(tiny(), tmp_path / "run" / "model")
    write(tmp_path / "run" / "recipe.yaml", FOREIGN["a validation set"])
    arguments = ["evaluate", "--model", str(model), "--device", "cpu", "--limit", "1"]
    assert cli.main(arguments) == 2
    assert "add --trust foreign_package" in capsys.readouterr().err
    assert file_names(created) == set()
    assert cli.main([*arguments, "--trust", PACKAGE]) == 0
