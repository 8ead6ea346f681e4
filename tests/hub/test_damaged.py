"""Damaged models and other files are refused in one line that names the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support_models import edit_config, tiny

from diffsight.errors import InputError
from diffsight.hub import fingerprint, load, read_config, save
from diffsight.model import DenseModel

RESULT = {"protocol": {"name": "p"}, "plan": "whole image", "metrics": {"rmse": 0.5}}


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture of the backbone in a configuration, which a test may edit."""
    return config["method"]["init_args"]["backbone"]["init_args"]["architecture"]


def refusal(path: Path, **options: Any) -> str:
    """Return the message with which ``load`` refuses a model; it must be one line."""
    with pytest.raises(InputError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Such weights come from a training that diverged."""
    model = tiny()
    with torch.no_grad():
        next(model.method.head.parameters()).view(-1)[0] = torch.nan
    path = save(model, tmp_path / "model.safetensors")
    message = refusal(path)
    assert message.startswith(f"the weights of {path} are not finite (first method.head.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["method"]["init_args"].update(timestpe=3),
            "unknown key 'method.timestpe' of VPD: did you mean 'timestep'?",
        ),
        (
            lambda c: c["method"]["init_args"]["head"]["init_args"].update(widht=3),
            "unknown key 'method.head.widht' of DeconvHead: did you mean 'width'?",
        ),
        (
            lambda c: c["method"].update(class_path="VDP"),
            "method: there is no class 'VDP': did you mean 'VPD'?",
        ),
        (
            lambda c: c["method"].update(class_path="diffsight.methods.vpd.VPD2"),
            "method: there is no class 'diffsight.methods.vpd.VPD2': did you mean 'VPD'?",
        ),
        (lambda c: c["method"].pop("init_args"), "backbone"),
        (lambda c: c["task"]["init_args"].update(max_depth_m="far"), "max_depth_m"),
        (lambda c: c["task"]["init_args"].update(max_depth_m=-1.0), "min_depth_m < max_depth_m"),
        (
            lambda c: c["task"]["init_args"].update(max_depth_m=float("nan")),
            "min_depth_m < max_depth_m",
        ),
        (lambda c: c["method"]["init_args"].update(timestep=float("nan")), "timestep"),
        (lambda c: c.pop("task"), "names no task and method"),
        (lambda c: c.update(method=3), "names no task and method"),
        (lambda c: c.update(format=99), "pip install -U diffsight"),
        (lambda c: c.update(format="2"), "pip install -U diffsight"),
        (lambda c: c.pop("info"), "incomplete (info is missing)"),
        (lambda c: c.update(info=[]), "incomplete (info is missing)"),
        (lambda c: c.pop("frozen"), "incomplete (frozen is missing)"),
        (lambda c: c.pop("fingerprint"), "incomplete (fingerprint is missing)"),
        (lambda c: c.update(fingerprint=5), "incomplete (fingerprint is missing)"),
        (lambda c: c["frozen"].update(backbone={}), "incomplete (frozen part 'backbone')"),
        (
            lambda c: c["frozen"].update(
                backbone={"source": "tiny", "fingerprint": "0", "revision": 3}
            ),
            "incomplete (revision of 'backbone')",
        ),
        (
            lambda c: c["frozen"].update(nothing={"source": "tiny", "fingerprint": "0"}),
            "has no frozen part 'nothing'",
        ),
        (lambda c: c["info"].update(short_side="wide"), "info.short_side is 'wide'"),
        (lambda c: c["info"].update(results={"rmse": 1}), "info.results is no list"),
        (lambda c: c.update(parameters="many"), "incomplete (parameters is missing)"),
        (lambda c: c.update(diffsight_version=None), "incomplete (diffsight_version is missing)"),
        (lambda c: c["info"].update(short_side=True), "info.short_side is True: write a number"),
        (lambda c: c["info"].update(short_side=10**19), "info.short_side is "),
        (lambda c: c["info"].update(results=[{"metrics": {}}]), "info.results is no list"),
        (
            lambda c: c["info"].update(results=[{**RESULT, "metrics": {"rmse": "low"}}]),
            "info.results is no list of evaluations",
        ),
        (
            lambda c: c["info"].update(results=[{**RESULT, "baselines": {"constant": {}}}]),
            "info.results is no list of evaluations",
        ),
        (lambda c: c["info"].update(training=3), "info.training is 3: write an object"),
        (lambda c: c["info"].update(samples=5), "info.samples is 5: write a list of texts"),
        (lambda c: c["info"].update(datasets=[1]), "info.datasets is [1]: write a list of texts"),
        (lambda c: c["info"].update(seed="x"), "info.seed is 'x': write a number"),
        (lambda c: c["info"].update(held_out={"vpd": None}), "write an object of numbers"),
        (lambda c: c["info"].update(held_out={"vpd": 1}), "info.held_out has no info.metric"),
        (lambda c: c["info"].update(unit=["m"]), "info.unit is ['m']: write a text"),
        (lambda c: architecture(c).update(unet=3), "architecture.unet is 3: give a mapping"),
        (
            lambda c: architecture(c).update(unet={"block_out_channels": [0]}),
            "block_out_channels is [0]: give a list of positive widths",
        ),
        (
            lambda c: architecture(c).update(unet={"cross_attention_dim": 10**12}),
            "cross_attention_dim is out of range",
        ),
    ],
)
def test_broken_configurations_are_refused(artifact: Path, change: Any, message: str) -> None:
    edit_config(artifact, change)
    refused = refusal(artifact)
    assert message in refused
    path = artifact if artifact.is_file() else artifact / "config.json"
    assert refused.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "select",
    [
        lambda c: c["method"],
        lambda c: c["task"],
        lambda c: c["method"]["init_args"]["head"],
        lambda c: c["method"]["init_args"]["backbone"]["init_args"].setdefault("architecture", {}),
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "tests.hub.test_damaged.Trap",
        "os.system",
        "diffsight.hub.save.os.system",
        "diffsight.__main__.main",
        "diffsight.hub.save.save",
    ],
)
def test_no_foreign_class_is_imported(
    artifact: Path, select: Any, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(
        artifact, lambda c: select(c).update(class_path=path, init_args={"command": "echo no"})
    )
    assert "is refused" in (message := refusal(artifact)) or "there is no class" in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["os.system", "diffsight.heads.deconv.DeconvHead", "a.yaml"])
@pytest.mark.parametrize("key", ["head", "backbone", "neck"])
def test_a_string_instead_of_a_constructor_call_is_refused_and_not_imported(
    folder: Path, key: str, value: str
) -> None:
    edit_config(folder, lambda c: c["method"]["init_args"].update({key: value}))
    assert f"method.{key}: VPD takes an object here" in refusal(folder)


def test_classes_of_a_trusted_package_are_loaded(folder: Path) -> None:
    tensors = {"method.bias": torch.ones(1)}
    save_file(tensors, folder / "model.safetensors")

    def change(config: dict[str, Any]) -> None:
        config["method"] = {"class_path": "tests.support_inference.Brightness"}
        config["fingerprint"] = fingerprint(tensors.items())

    edit_config(folder, change)
    assert "add --trust tests (in Python trusted=['tests'])" in refusal(folder)
    assert load(folder, trusted=("tests",)).method.bias.item() == 1


def test_invalid_info_is_refused_when_a_model_is_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^info\.seed is 'x': write a number$"):
        save(tiny(), tmp_path / "model", info={"seed": "x"})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ' * 5000 + "1" + "}" * 5000, "not valid JSON (nested too deeply)"),
        ('{"task": {}, "format": ' + "7" * 5000 + "}", "an integer of 5000 digits"),
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
    ],
)
def test_configurations_that_would_exhaust_the_parser_are_refused(
    folder: Path, text: str, message: str
) -> None:
    (folder / "config.json").write_text(text)
    assert message in refusal(folder)


def test_truncated_weights_are_refused(artifact: Path) -> None:
    path = artifact if artifact.is_file() else artifact / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    assert refusal(artifact) == (
        f"{path}: has {size - 100:,} bytes, but should have {size:,}: copy or download it again"
    )


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 4, b"x" * 100, b"\xff" * 100, b"\x08" + b"\0" * 7]
)
def test_weights_that_are_no_safetensors_file_are_refused(artifact: Path, content: bytes) -> None:
    path = artifact if artifact.is_file() else artifact / "model.safetensors"
    path.write_bytes(content)
    message = refusal(artifact)
    assert message.startswith(f"{path}: ")
    assert message.endswith("copy or download it again")


def test_weights_without_a_configuration_are_refused(
    file: Path, folder: Path, tmp_path: Path
) -> None:
    save_file(load_file(file), file)
    assert refusal(file).startswith(f"{file}: not a model of diffsight: give a file that")
    # a folder's weights have no configuration
    assert "not a model of diffsight" in refusal(folder / "model.safetensors")
    save_file(load_file(file), file, {"diffsight": "{"})
    assert refusal(file).startswith(f"{file}: not valid JSON (")


def test_a_missing_file_with_a_suffix_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.safetensors", "models/mine.safetensors"):
        assert refusal(Path(name)) == (
            f"{name}: no such file or folder, and not a hub id of the form owner/name"
        )


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["method.extra"] = tensors.pop("method.head.output.2.bias")
    save_file(tensors, path)
    message = refusal(folder)
    assert "1 missing (method.head.output.2.bias), 1 unexpected (method.extra)" in message


def test_weights_of_another_width_are_refused(folder: Path, tmp_path: Path) -> None:
    other = save(tiny(head_width=12), tmp_path / "other")
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    message = refusal(folder)
    assert "has shape (12,), its configuration needs (8,): both must come from" in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder, and not a hub id"),
        ("/no/such/folder", "no such file or folder"),
        ("someone/some-model", "unset HF_HUB_OFFLINE"),
    ],
)
def test_sources_that_do_not_exist_are_refused(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_the_output_folder_of_a_training_is_accepted(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run" / "model")
    assert isinstance(load(tmp_path / "run"), DenseModel)
    assert read_config(tmp_path / "run") == read_config(saved)


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    assert "no config.json in it" in refusal(tmp_path)
    path = tmp_path / "config.json"
    for content in ("{", "[" * 100_000, "NaN", "[]", '"text"'):
        path.write_text(content)
        assert refusal(tmp_path).startswith(f"{path}: ")
    path.write_bytes(b"\xff\xfa")
    assert refusal(tmp_path).startswith(f"{path}: cannot be read")
    path.write_text(json.dumps({"task": {}, "method": {}}))
    assert refusal(tmp_path).startswith(f"{path}: incomplete (info is missing)")
    # a file of another kind is no model
    assert "no safetensors file" in refusal(path)
