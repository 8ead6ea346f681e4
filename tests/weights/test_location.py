"""Hub ids, the hub's cache, and what is downloaded."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tests.weights.conftest import Online
from tests.weights.layouts import cache, lay_out

from diffsight.backbones import BackboneSource, ClipVision, StableDiffusion, architectures
from diffsight.errors import InputError
from diffsight.prompts.encoder import load_text_encoder
from diffsight.weights import locate, resolve_folder


def weights(hub: Online) -> set[str]:
    return {name for name in hub.fetched if not name.endswith((".json", ".txt"))}


@pytest.mark.parametrize("layout", ["fp16", "non_ema", "pickle"])
def test_a_hub_id_fetches_one_file_of_weights_for_each_part(online: Online, layout: str) -> None:
    lay_out(online.folder, layout)
    suffix = {"pickle": "bin"}.get(layout, f"{layout}.safetensors")
    architecture, _ = architectures.of_weights(online.folder)
    StableDiffusion(architecture, weights="owner/model")
    unet = f"unet/diffusion_pytorch_model.{suffix}"
    assert weights(online) == {unet, unet.replace("unet", "vae")}
    assert "unet/config.json" in online.fetched
    online.fetched.clear()
    BackboneSource("owner/model")
    towers = {name.split("/")[0] for name in weights(online)}
    assert towers == {"unet", "vae", "text_encoder", "image_encoder"}
    assert len(weights(online)) == 4


def test_other_copies_are_not_fetched(online: Online) -> None:
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (online.folder / "unet" / name).touch()
    (online.folder / "v1-5-pruned.safetensors").touch()
    locate("owner/model")
    expected = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")}
    assert weights(online) == expected


def test_only_the_text_tower_and_its_tokenizer_are_fetched(online: Online) -> None:
    load_text_encoder("owner/model")
    assert weights(online) == {"text_encoder/model.safetensors"}
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= {*online.fetched}


def test_a_model_at_the_top_of_a_repository_is_fetched(online: Online) -> None:
    """As of CLIP (``--clip openai/clip-vit-large-patch14``); all shards of one copy."""
    online.folder = lay_out(online.folder / "image_encoder", "sharded")
    (online.folder / "pytorch_model.bin").touch()
    (online.folder / "README.md").touch()
    ClipVision("owner/model")
    assert weights(online) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    assert "config.json" in online.fetched


def test_a_vision_backbone_of_no_parts_is_not_fetched_with_a_diffusion_model(
    online: Online,
) -> None:
    (online.folder / "model.safetensors").touch()
    BackboneSource("owner/model")
    assert "model.safetensors" not in online.fetched


def test_what_is_not_in_the_cache_and_cannot_be_fetched(hub_cache: Path) -> None:
    for load in (ClipVision, StableDiffusion, BackboneSource):
        name = {"weights": "owner/model"} if load is StableDiffusion else {}
        message = r"owner/model: not on this machine .*give a local folder or file, or go online"
        with pytest.raises(InputError, match=message):
            load(**name) if name else load("owner/model")


def test_without_the_hub_the_cache_is_enough(
    pipeline: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network and no ``HF_HUB_OFFLINE``: the listing fails, whatever the error."""

    class Broken:
        def list_repo_files(self, *_: object, **__: object) -> list[str]:
            raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("diffsight.weights.location.HfApi", Broken)
    model = cache(lay_out(pipeline, "fp16"), hub_cache)
    assert locate("owner/name") == model / "snapshots" / ("a" * 40)


def test_the_current_snapshot_of_several(pipeline: Path, hub_cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "older"
    other.mkdir()
    cache(other, hub_cache, commit="b" * 40)
    model = cache(pipeline, hub_cache, commit="a" * 40)
    assert resolve_folder(model).name == "a" * 40
    (model / "refs" / "main").unlink()
    with pytest.raises(InputError, match=r"2 snapshots, none of them of refs/main.*snapshots/COM"):
        BackboneSource(model)
    (model / "snapshots" / ("b" * 40)).rmdir()
    assert resolve_folder(model).name == "a" * 40


def test_a_cache_folder_without_a_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--name"
    folder.mkdir()
    with pytest.raises(InputError, match="no snapshot in this folder of the hub's cache"):
        locate(folder)
    assert resolve_folder(tmp_path) == tmp_path
