import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.hub.tiny import tiny
from torch import nn

import diffsight
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.hub import build, fingerprint, load, push, read_config, save
from diffsight.hub.build import uninitialised
from diffsight.model import DenseModel
from diffsight.types import Inputs


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny(), tmp_path_factory.mktemp("models") / "depth")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edit(folder: Path, change: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_loaded_model_is_the_saved_one(saved: Path) -> None:
    model, again = tiny(), load(saved)
    assert not again.training
    for (name, a), (other, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b), name
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in again.named_parameters() if p.requires_grad} == trains
    inputs = Inputs(torch.rand(1, 3, 64, 96), ("office",))
    with torch.no_grad():
        assert torch.equal(model(inputs).maps, again(inputs).maps)


def test_configuration_survives_the_round_trip(saved: Path) -> None:
    config = read_config(saved)
    model = build(config)
    assert to_config(model)["init_args"] == {name: config[name] for name in ("task", "method")}
    assert config["fingerprint"] == fingerprint(load(saved))
    assert config["diffsight_version"] == diffsight.__version__
    assert config["parameters"] == sum(p.numel() for p in model.parameters())


def test_what_is_saved_states_every_default(saved: Path) -> None:
    """A default that changes in a later version must not change a saved model."""
    method = read_config(saved)["method"]["init_args"]
    assert method["timestep"] == 1
    assert method["backbone"]["init_args"]["latent_scale"] == 1.0


def test_the_public_names(tmp_path: Path) -> None:
    diffsight.save(tiny(), tmp_path / "m")
    assert isinstance(diffsight.load(tmp_path / "m"), DenseModel)


def test_weights_may_be_read_by_whoever_may_read_the_rest(saved: Path) -> None:
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_other_types(saved: Path) -> None:
    assert {p.dtype for p in load(saved, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_fingerprint_sees_every_tensor_and_no_order() -> None:
    a = tiny()
    assert fingerprint(a) == fingerprint(tiny())
    b = tiny()
    with torch.no_grad():
        b.method.head.output[2].bias += 1e-3
    assert fingerprint(a) != fingerprint(b)
    c = tiny()
    c.method.head.deconv[1].num_batches_tracked += 1
    assert fingerprint(a) != fingerprint(c)


def test_weights_that_are_to_be_loaded_are_not_initialised_first() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with uninitialised():
        layer = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.LayerNorm(64))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(layer[1].running_var, torch.ones(64))


def test_sources_of_weights_are_named_but_never_read_again(saved: Path, folder: Path) -> None:
    def add(config: dict[str, Any]) -> None:
        config["method"]["init_args"]["backbone"]["init_args"]["weights"] = "someone/gone"

    edit(folder, add)
    assert fingerprint(load(folder)) == read_config(saved)["fingerprint"]


def test_saving_again_keeps_other_files_and_replaces_the_model(folder: Path) -> None:
    (folder / "recipe.json").write_text("{}")
    save(tiny(1), folder)
    assert fingerprint(load(folder)) == fingerprint(tiny(1))
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.json",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


def test_a_failed_save_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        from safetensors import SafetensorError

        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(sys.modules["diffsight.hub.save"], "save_file", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*model\.safetensors"):
        save(tiny(1), folder)
    assert fingerprint(load(folder)) == fingerprint(tiny(0))
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """The real failure of the real writer: no file of this process may exceed 20 kB."""
    program = (
        "import resource, signal, sys\n"
        "from tests.hub.tiny import tiny\n"
        "import diffsight\n"
        "model = tiny()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n"
        "    diffsight.save(model, sys.argv[1])\n"
        "except OSError as error:\n"
        "    sys.exit(f'{error.strerror}: {error.filename}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m")], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("File too large: "), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save(tiny(), tmp_path / "file" / "model")


def test_card_is_what_the_hub_reads(tmp_path: Path) -> None:
    result = {
        "protocol": {"name": "rooms-v1"},
        "plan": "own size, whole image, no flip",
        "data": "rooms-test",
        "metrics": {"rmse": 0.51234, "d1": 0.9},
        "rivals": {"mean map": {"rmse": 0.7, "d1": 0.5}},
    }
    info = {"license": "mit", "datasets": ["rooms"], "results": [result], "training": {"steps": 7}}
    text = (save(tiny(), tmp_path / "m", info=info) / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["license"] == "mit"
    assert fields["library_name"] == "diffsight"
    assert fields["pipeline_tag"] == "depth-estimation"
    assert fields["datasets"] == ["rooms"]
    assert fields["metrics"] == ["d1", "rmse"]
    assert "| **this model** | 0.5123 | 0.9 |\n| mean map | 0.7 | 0.5 |" in body
    assert "rooms-v1 on rooms-test, plan: own size" in body
    assert "* steps: 7" in body


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
            "method: there is no class 'diffsight.methods.vpd.VPD2' in this version",
        ),
        (lambda c: c["method"].pop("init_args"), "backbone"),
        (
            lambda c: c["task"]["init_args"].update(max_depth_m="far"),
            "max_depth_m",
        ),
        (
            lambda c: c["task"]["init_args"].update(max_depth_m=-1.0),
            "min_depth_m < max_depth_m",
        ),
        (lambda c: c.pop("task"), "names no task and method"),
        (lambda c: c.update(format=99), "pip install -U diffsight"),
    ],
)
def test_broken_configurations(folder: Path, change: Any, message: str) -> None:
    edit(folder, change)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    "place",
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
        "tests.hub.test_save_load.Trap",
        "os.system",
        "diffsight.hub.save.os.system",
        "diffsight.__main__.main",
        "diffsight.hub.save.save",
    ],
)
def test_no_foreign_class_is_imported(
    folder: Path, place: Any, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, lambda c: place(c).update(class_path=path, init_args={"command": "echo no"}))
    with pytest.raises(InputError, match=r"is refused|there is no class"):
        load(folder)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["os.system", "diffsight.heads.deconv.DeconvHead", "a.yaml"])
@pytest.mark.parametrize("key", ["head", "backbone", "neck"])
def test_text_in_place_of_an_object_is_not_imported(folder: Path, key: str, value: str) -> None:
    edit(folder, lambda c: c["method"]["init_args"].update({key: value}))
    with pytest.raises(InputError, match=f"method.{key}: VPD takes an object here"):
        load(folder)


def test_ones_own_package_can_be_trusted(folder: Path) -> None:
    path = "tests.inference.standins.Brightness"
    edit(folder, lambda c: c.update(method={"class_path": path}))
    save_file({"method.bias": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="is refused"):
        load(folder)
    assert load(folder, trusted=("diffsight", "tests")).method.bias.item() == 1


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - 100)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"{path}: {whole - 100:,} bytes where {whole:,} belong: copy or download it again"
    )


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 4, b"x" * 100, b"\xff" * 100, b"\x08" + b"\0" * 7]
)
def test_no_safetensors_file(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors.*copy or download it again"):
        load(folder)


def test_weights_of_another_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["method.extra"] = tensors.pop("method.head.output.2.bias")
    save_file(tensors, path)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "1 missing (method.head.output.2.bias), 1 unexpected (method.extra)" in str(caught.value)


def test_weights_of_another_width(folder: Path, tmp_path: Path) -> None:
    other = save(tiny(head_width=12), tmp_path / "other")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"has shape \(12, 8, 3, 3\).*wants \(8, 8, 3, 3\)"):
        load(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such folder, and not a hub id"),
        ("/no/such/folder", "no such folder"),
        ("someone/some-model", "unset HF_HUB_OFFLINE"),
    ],
)
def test_sources_that_are_none(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_training_will_do(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "run" / "model")
    assert isinstance(load(tmp_path / "run"), DenseModel)


def test_folders_that_hold_no_model(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json in it"):
        load(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        load(saved / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load(tmp_path)


def test_hub_ids_come_from_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        assert set(allow_patterns) >= {"config.json", "model.safetensors"}
        return str(saved)

    monkeypatch.setattr(sys.modules["diffsight.hub.load"], "snapshot_download", download)
    load("someone/depth", revision="v2")
    assert asked == [("someone/depth", "v2")]


@pytest.mark.parametrize("as_folder", [True, False])
def test_push(saved: Path, monkeypatch: pytest.MonkeyPatch, as_folder: bool) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    sent: list[str] = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, *, folder_path: str, **options: Any) -> SimpleNamespace:
            sent.append(read_config(Path(folder_path))["fingerprint"])
            calls.append((options["repo_id"], options))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(sys.modules["diffsight.hub.save"], "HfApi", Api)
    assert push(saved if as_folder else tiny(), "me/depth") == "https://hub/commit/1"
    assert calls[0] == ("me/depth", {"private": True, "exist_ok": True})
    assert set(calls[1][1]["allow_patterns"]) >= {"config.json", "model.safetensors", "README.md"}
    assert sent == [fingerprint(tiny())]


def test_push_of_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json and no model\.safetensors"):
        push(tmp_path, "me/depth")
