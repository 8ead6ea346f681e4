"""Uploads to and downloads from the Hugging Face hub, which is replaced by a stand-in."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support_models import few_shot, fingerprint_of, tiny
from tests.support_weights import move_to_hub_cache

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.hub import load, push, read_baselines, read_config, save, write_baselines

Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Return a list of the calls to a fake hub; ``sent`` is the uploaded configuration."""
    calls: Calls = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, *, folder_path: str, **options: Any) -> SimpleNamespace:
            folder = Path(folder_path)
            sent = {"sent": read_config(folder), "baselines": set(read_baselines(folder))}
            calls.append((options["repo_id"], options | sent))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return calls


def test_a_model_is_downloaded_by_its_hub_id(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[tuple[str, str | None]] = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        requested.append((repo, revision))
        assert set(allow_patterns) >= {"config.json", "model.safetensors"}
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load("someone/depth", revision="v2")
    assert requested == [("someone/depth", "v2")]


def test_a_folder_a_file_and_a_model_are_uploaded(folder: Path, file: Path, calls: Calls) -> None:
    for source in (folder, file):
        write_baselines(source, {"mean map": torch.ones(2, 2)})
    for source in (folder, file, tiny()):
        calls.clear()
        assert push(source, "me/depth") == "https://hub/commit/1"
        assert calls[0] == ("me/depth", {"private": True, "exist_ok": True})
        options = calls[1][1]
        assert set(options["allow_patterns"]) >= {"config.json", "model.safetensors", "README.md"}
        assert options["sent"]["fingerprint"] == fingerprint_of(tiny())
        assert options["baselines"] == ({"mean map"} if isinstance(source, Path) else set())


def test_baselines_of_an_older_upload_are_deleted(folder: Path, calls: Calls) -> None:
    """The hub's client keeps those files that the same upload replaces."""
    push(folder, "me/depth")
    assert calls[1][1]["baselines"] == set()
    assert calls[1][1]["delete_patterns"] == "baselines.safetensors"


def test_an_empty_folder_is_not_uploaded(tmp_path: Path, calls: Calls) -> None:
    with pytest.raises(InputError, match=r"no config\.json and no model\.safetensors"):
        push(tmp_path, "me/depth")
    assert not calls


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_a_model_that_refers_to_local_files_is_not_uploaded(
    pipeline_folder: Path, tmp_path: Path, calls: Calls, name: str
) -> None:
    model = few_shot(BackboneSource(pipeline_folder))
    path = save(model, tmp_path / name, embed=False)
    with pytest.raises(InputError, match=r"refers to .* on this machine.*embed=True") as caught:
        push(path, "me/depth")
    assert "\n" not in str(caught.value)
    assert not calls
    push(save(model, tmp_path / f"embedded-{name}"), "me/depth")
    assert calls[1][1]["sent"]["frozen"] == {}


def test_a_model_in_the_cache_of_the_hub_is_loaded(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded by hub id without a network, and by its folder in the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(saved, tmp_path / "copy")
    folder = move_to_hub_cache(tmp_path / "copy", tmp_path / "hub")
    for source in ("owner/name", folder):
        assert fingerprint_of(load(source)) == fingerprint_of(tiny())
    with pytest.raises(InputError, match=r"owner/other: not on this machine and the hub cannot be"):
        load("owner/other")
    with pytest.raises(InputError, match=r"not a hub id of the form owner/name"):
        load("owner/bad name")
