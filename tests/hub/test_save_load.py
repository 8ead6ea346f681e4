"""A model is saved as a folder or as one file, and loaded again bit for bit."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tests.support_disk import small_disk
from tests.support_models import RESULT, edit_config, fingerprint_of, flip_last_byte, tiny
from torch import nn

import diffsight
from diffsight import protocols
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.hub import (
    build,
    fingerprint,
    load,
    read_baselines,
    read_config,
    record,
    save,
    write_baselines,
)
from diffsight.hub.build import uninitialised
from diffsight.model import DenseModel
from diffsight.types import Inputs


def test_a_loaded_model_equals_the_saved_one(artifact: Path) -> None:
    model, again = tiny(), load(artifact)
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
        assert torch.equal(model(inputs).stack, again(inputs).stack)


def test_the_configuration_describes_the_model(artifact: Path) -> None:
    config = read_config(artifact)
    model = build(config)
    assert to_config(model)["init_args"] == {name: config[name] for name in ("task", "method")}
    assert config["fingerprint"] == fingerprint_of(load(artifact))
    assert config["diffsight_version"] == diffsight.__version__
    assert config["parameters"] == sum(p.numel() for p in model.parameters())
    assert config["frozen"] == {}


def test_a_folder_and_a_file_have_the_same_configuration(saved: Path, saved_file: Path) -> None:
    assert read_config(saved) == read_config(saved_file)


def test_a_saved_model_states_every_default(saved: Path) -> None:
    """A later version with another default must not change a saved model."""
    method = read_config(saved)["method"]["init_args"]
    assert method["timestep"] == 1
    assert method["backbone"]["init_args"]["latent_scale"] == 1.0


def test_save_and_load_are_public(tmp_path: Path) -> None:
    diffsight.save(tiny(), tmp_path / "m")
    assert isinstance(diffsight.load(tmp_path / "m"), DenseModel)


def test_info_is_saved_with_the_model(tmp_path: Path) -> None:
    model = tiny()
    model.info |= {"short_side": 48}
    for name in ("m", "m.safetensors"):
        path = save(model, tmp_path / name, info={"license": "mit"})
        again = load(path)
        assert again.info == {
            "short_side": 48,
            "license": "mit",
            "fingerprint": read_config(path)["fingerprint"],
        }
        assert model.info == again.info
    assert "fingerprint" not in read_config(path)["info"]


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_saved_files_have_the_permissions_of_a_new_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "new").touch()
    path = save(tiny(), tmp_path / name)
    files = [path] if path.is_file() else list(path.iterdir())
    assert {file.stat().st_mode for file in (*files, tmp_path / "new")} == {
        (tmp_path / "new").stat().st_mode
    }


def test_a_model_is_loaded_in_another_dtype(artifact: Path) -> None:
    assert {p.dtype for p in load(artifact, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_the_fingerprint_depends_on_every_tensor_but_not_on_their_order() -> None:
    a = tiny()
    assert fingerprint_of(a) == fingerprint_of(tiny())
    assert fingerprint(reversed(a.state_dict().items())) == fingerprint_of(a)
    b = tiny()
    with torch.no_grad():
        b.method.head.output[2].bias += 1e-3
    assert fingerprint_of(a) != fingerprint_of(b)
    c = tiny()
    c.method.head.deconv[1].num_batches_tracked += 1
    assert fingerprint_of(a) != fingerprint_of(c)


def test_one_changed_byte_is_refused(artifact: Path) -> None:
    weights = artifact if artifact.is_file() else artifact / "model.safetensors"
    flip_last_byte(weights)
    with pytest.raises(InputError) as caught:
        load(artifact)
    message = str(caught.value)
    assert message.startswith(f"{weights}: its tensors are not those that were saved (fingerprint ")
    assert message.endswith("copy or download the model again")
    assert "\n" not in message


def test_parameters_are_not_initialised_before_they_are_loaded() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with uninitialised():
        layer = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.LayerNorm(64))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(layer[1].running_var, torch.ones(64))


def test_loading_does_not_read_the_original_source_of_saved_weights(artifact: Path) -> None:
    def add(config: dict[str, Any]) -> None:
        config["method"]["init_args"]["backbone"]["init_args"]["weights"] = "someone/gone"

    edit_config(artifact, add)
    assert fingerprint_of(load(artifact)) == read_config(artifact)["fingerprint"]


def test_saving_again_keeps_other_files_and_replaces_the_model(folder: Path) -> None:
    (folder / "recipe.json").write_text("{}")
    save(tiny(1), folder)
    assert fingerprint_of(load(folder)) == fingerprint_of(tiny(1))
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.json",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


def test_a_failed_save_leaves_the_old_model(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("diffsight.weights.files.save_file", full_disk)
    with pytest.raises((OSError, InputError), match="No space left on device") as caught:
        save(tiny(1), artifact)
    assert "\n" not in str(caught.value)
    assert ".safetensors" in str(caught.value)
    assert fingerprint_of(load(artifact)) == fingerprint_of(tiny(0))
    assert [p.name for p in artifact.parent.iterdir()] == [artifact.name]


def test_a_full_disk_leaves_no_files(tmp_path: Path) -> None:
    """The error comes from the operating system and is not simulated."""
    model, folder, file = tiny(), tmp_path / "m", tmp_path / "m.safetensors"
    with pytest.raises(OSError, match=r"File too large: '.*model\.safetensors'"), small_disk():
        save(model, folder)
    with pytest.raises(InputError) as caught, small_disk():
        save(model, file)
    assert str(caught.value) == (
        f"{file}: cannot be written (File too large); choose a folder that exists, is writable and "
        "has space"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("model", "model.safetensors"):
        with pytest.raises(OSError, match="file"):
            save(tiny(), tmp_path / "file" / name)


def test_an_equal_evaluation_replaces_the_recorded_one(artifact: Path) -> None:
    before = fingerprint_of(load(artifact))
    record(artifact, RESULT)
    record(artifact, RESULT | {"data": "rooms-val"})
    better = RESULT | {"metrics": {"rmse": 0.4, "d1": 0.95}}
    record(artifact, better)
    assert read_config(artifact)["info"]["results"] == [RESULT | {"data": "rooms-val"}, better]
    again = load(artifact)
    assert again.info["results"][1]["metrics"]["rmse"] == 0.4
    assert fingerprint_of(again) == before
    if artifact.is_dir():
        assert "| **this model** | 0.4 | 0.95 |" in (artifact / "README.md").read_text()


def test_a_protocol_with_tuples_is_recorded_once(artifact: Path) -> None:
    protocol = protocols.get("nyu-eigen-v1").as_dict()
    assert json.loads(json.dumps(protocol)) != protocol
    for rmse in (0.5, 0.4):
        record(artifact, RESULT | {"protocol": protocol, "metrics": {"rmse": rmse}})
    (stored,) = read_config(artifact)["info"]["results"]
    assert stored["metrics"] == {"rmse": 0.4}


def test_baselines_are_stored_with_the_model(artifact: Path) -> None:
    assert read_baselines(artifact) == {}
    maps = {"mean map": torch.rand(3, 4), "constant median": torch.ones(1, 1)}
    write_baselines(artifact, maps)
    write_baselines(artifact, maps)
    stored = read_baselines(artifact)
    assert stored.keys() == maps.keys()
    assert all(torch.equal(stored[name], maps[name]) for name in maps)
    assert fingerprint_of(load(artifact)) == fingerprint_of(tiny())
    record(artifact, RESULT)
    assert read_baselines(artifact).keys() == maps.keys()
    loaded = load(artifact)
    assert loaded.baselines.keys() == maps.keys()
    assert all(torch.equal(loaded.baselines[name], maps[name]) for name in maps)
    again = artifact.with_name(f"again-{artifact.name}")
    save(loaded, again)
    assert read_baselines(again).keys() == maps.keys()
    save(tiny(), again)  # a model without baselines
    assert read_baselines(again) == {}
    if artifact.is_dir():
        path = artifact / "baselines.safetensors"
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(InputError, match=r"baselines\.safetensors: damaged .*: delete it"):
            read_baselines(artifact)
