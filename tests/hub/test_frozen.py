"""Frozen parts: those of the package or the hub are referenced, others saved in the model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support_models import few_shot, fingerprint_of

from diffsight.backbones import BackboneSource, ClipVision, StableDiffusion
from diffsight.errors import InputError
from diffsight.hub import fingerprint, load, read_config, save
from diffsight.methods import FeatureHead
from diffsight.model import DenseModel
from diffsight.tasks import Segmentation
from diffsight.types import Draws, Inputs


@pytest.fixture
def local(pipeline_folder: Path, tmp_path: Path) -> Path:
    """Return a backbone folder that a test may damage."""
    return shutil.copytree(pipeline_folder, tmp_path / "backbone")


def output(model: DenseModel) -> torch.Tensor:
    """Return the output for a fixed random image."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(Inputs(image), draws=Draws((0,))).stack


def change_unet(folder: Path) -> None:
    """Change one bias of the UNet in a backbone's folder."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] += 1
    save_file(tensors, path)


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_parts_from_the_package_are_saved_by_reference(
    embedded: Path, tmp_path: Path, name: str
) -> None:
    model = few_shot(BackboneSource("tiny"))
    path = save(model, tmp_path / name)
    frozen = read_config(path)["frozen"]
    for part in ("backbone", "vision"):
        state = model.method.get_submodule(part).state_dict()
        assert frozen[part] == {
            "source": "tiny",
            "revision": None,
            "fingerprint": fingerprint(state.items()),
        }
    weights = path if path.is_file() else path / "model.safetensors"
    assert not [n for n in load_file(weights) if n.startswith(("method.backbone", "method.vision"))]
    again = load(path)
    assert fingerprint_of(again) == fingerprint_of(model)
    assert torch.equal(output(again), output(model))


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_parts_from_a_local_folder_are_saved_in_the_model(
    local: Path, tmp_path: Path, name: str
) -> None:
    model = few_shot(BackboneSource(local))
    path = save(model, tmp_path / name)
    config = read_config(path)
    assert config["frozen"] == {}
    assert str(tmp_path) not in json.dumps(config), "a path of this machine"
    if path.is_dir():
        assert str(tmp_path) not in (path / "README.md").read_text()
    shutil.rmtree(local)
    again = load(path)
    assert fingerprint_of(again) == fingerprint_of(model)
    assert torch.equal(output(again), output(model))
    # the loaded model is saved with its parts again
    assert read_config(save(again, tmp_path / f"again-{name}"))["frozen"] == {}


def test_parts_are_saved_in_the_model_with_embed(embedded: Path, tmp_path: Path) -> None:
    model = few_shot(BackboneSource("tiny"))
    path = save(model, tmp_path / "m.safetensors", embed=True)
    assert read_config(path)["frozen"] == {}
    shutil.rmtree(embedded)
    assert torch.equal(output(load(path)), output(model))


def test_without_embed_a_local_folder_is_referenced_and_may_be_moved(
    local: Path, tmp_path: Path
) -> None:
    model = few_shot(BackboneSource(local))
    path = save(model, tmp_path / "m.safetensors", embed=False)
    assert read_config(path)["frozen"]["backbone"]["source"] == str(local)
    assert fingerprint_of(load(path)) == fingerprint_of(model)
    moved = local.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"frozen backbone cannot be loaded .*backbone=") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    again = load(path, backbone=moved)
    assert fingerprint_of(again) == fingerprint_of(model)
    assert again.method.backbone.source == str(local)
    change_unet(moved)
    with pytest.raises(InputError) as caught:
        load(path, backbone=moved)
    message = str(caught.value)
    assert message.startswith(f"{path}: was trained on {local} (")
    assert f"not on {moved} (" in message
    assert "\n" not in message


def test_a_head_keeps_the_empty_prompt_that_it_was_trained_with(
    embedded: Path, local: Path, tmp_path: Path
) -> None:
    """The text encoder of the backbone may be missing when the model is loaded."""
    torch.manual_seed(0)
    task = Segmentation(["a", "b"])
    model = DenseModel(task=task, method=FeatureHead.from_backbone(BackboneSource("tiny"))).eval()
    path = save(model, tmp_path / "m.safetensors")
    shutil.rmtree(local / "text_encoder")
    again = load(path, backbone=local)
    assert float(again.method.backbone.prompts.rows.std()) > 0
    assert torch.equal(output(again), output(model))


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_a_changed_frozen_part_is_refused(local: Path, tmp_path: Path, name: str) -> None:
    path = save(few_shot(BackboneSource(local)), tmp_path / name, embed=False)
    change_unet(local)
    with pytest.raises(InputError, match=r"was trained on .* not on .*: give the backbone that it"):
        load(path)


def test_a_frozen_part_shared_by_several_models_is_loaded_once(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = BackboneSource("tiny")
    paths = [save(few_shot(source, bins=n), tmp_path / f"{n}.safetensors") for n in (4, 5)]
    loaded: list[str] = []
    for cls in (StableDiffusion, ClipVision):
        load_weights = cls.load_weights

        def counted(part: Any, source: Any, *, _load: Any = load_weights, **options: Any) -> None:
            loaded.append(type(part).__name__)
            _load(part, source, **options)

        monkeypatch.setattr(cls, "load_weights", counted)
    shared: dict[str, Any] = {}
    one, other = (load(path, shared=shared) for path in paths)
    assert sorted(loaded) == ["ClipVision", "StableDiffusion"]
    assert one.method.backbone is other.method.backbone
    assert one.method.vision is other.method.vision
    assert load(paths[0]).method.backbone is not one.method.backbone
    half = load(paths[0], shared=shared, dtype=torch.bfloat16)
    assert half.method.backbone is not one.method.backbone
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    assert torch.equal(output(other), output(load(paths[1])))


def test_frozen_parts_converted_to_another_dtype_are_saved_in_the_model(
    embedded: Path, tmp_path: Path
) -> None:
    path = save(few_shot(BackboneSource("tiny")), tmp_path / "m.safetensors")
    half = load(path, dtype=torch.bfloat16)
    again = load(save(half, tmp_path / "half.safetensors"), dtype=torch.bfloat16)
    assert read_config(tmp_path / "half.safetensors")["frozen"] == {}
    assert fingerprint_of(again) == fingerprint_of(half)


def test_a_part_from_the_hub_is_loaded_at_its_saved_commit(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "snapshots" / "0a1b2c"
    shutil.copytree(pipeline_folder, snapshot)
    requested = []

    def download(name: str, *, revision: str | None, allow_patterns: Any) -> str:
        requested.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    path = save(few_shot(BackboneSource("owner/name")), tmp_path / "m.safetensors")
    entry = read_config(path)["frozen"]["backbone"]
    assert (entry["source"], entry["revision"]) == ("owner/name", "0a1b2c")
    requested.clear()
    load(path)
    assert set(requested) == {("owner/name", "0a1b2c")}
