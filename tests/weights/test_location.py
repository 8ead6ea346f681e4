"""Hub ids, the cache of the hub, and the files that are downloaded."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tests.support_weights import move_to_hub_cache, rewrite_in_layout
from tests.weights.conftest import FakeHub

from diffsight.backbones import BackboneSource, ClipVision, StableDiffusion, architectures
from diffsight.errors import InputError
from diffsight.prompts.encoder import load_text_encoder
from diffsight.weights import locate, resolve_folder


def fetched_weights(hub: FakeHub) -> set[str]:
    return {name for name in hub.fetched if not name.endswith((".json", ".txt"))}


@pytest.mark.parametrize("layout", ["fp16", "non_ema", "pickle"])
def test_a_hub_id_downloads_one_file_of_weights_per_part(online: FakeHub, layout: str) -> None:
    rewrite_in_layout(online.folder, layout)
    suffix = {"pickle": "bin"}.get(layout, f"{layout}.safetensors")
    architecture, _ = architectures.from_weights(online.folder)
    StableDiffusion(architecture, weights="owner/model")
    unet = f"unet/diffusion_pytorch_model.{suffix}"
    assert fetched_weights(online) == {unet, unet.replace("unet", "vae")}
    assert "unet/config.json" in online.fetched
    online.fetched.clear()
    BackboneSource("owner/model")
    towers = {name.split("/")[0] for name in fetched_weights(online)}
    assert towers == {"unet", "vae", "text_encoder", "image_encoder"}
    assert len(fetched_weights(online)) == 4


def test_other_copies_of_weights_are_not_downloaded(online: FakeHub) -> None:
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (online.folder / "unet" / name).touch()
    (online.folder / "v1-5-pruned.safetensors").touch()
    locate("owner/model")
    expected = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")}
    assert fetched_weights(online) == expected


def test_a_text_encoder_downloads_only_its_tower_and_tokenizer(online: FakeHub) -> None:
    load_text_encoder("owner/model")
    assert fetched_weights(online) == {"text_encoder/model.safetensors"}
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= {*online.fetched}


def test_a_model_at_the_top_of_a_repository_is_downloaded(online: FakeHub) -> None:
    """All shards of one copy are downloaded, as for ``--clip openai/clip-vit-large-patch14``."""
    online.folder = rewrite_in_layout(online.folder / "image_encoder", "sharded")
    (online.folder / "pytorch_model.bin").touch()
    (online.folder / "README.md").touch()
    ClipVision("owner/model")
    assert fetched_weights(online) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    assert "config.json" in online.fetched


def test_weights_outside_the_part_folders_of_a_diffusion_model_are_not_downloaded(
    online: FakeHub,
) -> None:
    (online.folder / "model.safetensors").touch()
    BackboneSource("owner/model")
    assert "model.safetensors" not in online.fetched


def test_a_hub_id_that_cannot_be_downloaded_is_an_error(hub_cache: Path) -> None:
    for load in (ClipVision, StableDiffusion, BackboneSource):
        name = {"weights": "owner/model"} if load is StableDiffusion else {}
        message = r"owner/model: not on this machine .*give a local folder or file, or go online"
        with pytest.raises(InputError, match=message):
            load(**name) if name else load("owner/model")


def test_a_cached_model_is_loaded_without_the_hub(
    pipeline: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing the files of the hub fails without a network, so the cache must suffice."""

    class Broken:
        def list_repo_files(self, *_: object, **__: object) -> list[str]:
            raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi", Broken)
    model = move_to_hub_cache(rewrite_in_layout(pipeline, "fp16"), hub_cache)
    assert locate("owner/name") == model / "snapshots" / ("a" * 40)


def test_of_several_snapshots_the_current_one_is_used(
    pipeline: Path, hub_cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "older"
    other.mkdir()
    move_to_hub_cache(other, hub_cache, commit="b" * 40)
    model = move_to_hub_cache(pipeline, hub_cache, commit="a" * 40)
    assert resolve_folder(model).name == "a" * 40
    (model / "refs" / "main").unlink()
    with pytest.raises(InputError, match=r"2 snapshots, none of them of refs/main.*snapshots/COM"):
        BackboneSource(model)
    (model / "snapshots" / ("b" * 40)).rmdir()
    assert resolve_folder(model).name == "a" * 40


def test_a_cache_folder_without_a_snapshot_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--name"
    folder.mkdir()
    with pytest.raises(InputError, match="no snapshot in this folder of the hub's cache"):
        locate(folder)
    assert resolve_folder(tmp_path) == tmp_path
