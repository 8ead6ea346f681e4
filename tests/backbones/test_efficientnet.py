"""EfficientNet-Lite0: number of parameters, levels, and checks of the installed weights."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.contracts import BackboneContract

from diffsight import assets
from diffsight.backbones import BackboneSource, EfficientNetLite0
from diffsight.errors import InputError
from diffsight.weights import read_checkpoint


class TestEfficientNetLite0(BackboneContract):
    """A contract test of a randomly initialised network with two levels."""

    def build(self) -> EfficientNetLite0:
        torch.manual_seed(0)
        return EfficientNetLite0(levels=(8, 32))


def test_the_number_of_parameters_is_that_of_the_paper_without_classifier() -> None:
    count = sum(p.numel() for p in EfficientNetLite0().parameters())
    head = 320 * 1280 + 2 * 1280
    assert count + head + 1281 * 1000 == 4_652_008


def test_levels_are_chosen_by_their_strides() -> None:
    network = EfficientNetLite0("efficientnet-lite0", levels=(2, 16))
    features = network(torch.rand(1, 3, 64, 96)).features
    assert [tuple(one.shape[1:]) for one in features] == [(16, 32, 48), (112, 4, 6)]
    with pytest.raises(InputError, match=r"levels \(4, 2\): give different strides of 2, 4, 8"):
        EfficientNetLite0(levels=(4, 2))


def test_sides_that_are_not_multiples_of_32_are_refused() -> None:
    with pytest.raises(InputError, match="100 x 64 px: both sides must be multiples of 32 px"):
        EfficientNetLite0()(torch.rand(1, 3, 64, 100))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"no weights of EfficientNet-Lite0 .* give efficientnet"):
        EfficientNetLite0(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state, _ = read_checkpoint(assets.find("efficientnet-lite0"))
    state["_bn0.bias"] = torch.full_like(state["_bn0.bias"], torch.nan)
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "bad.safetensors"
    )
    with pytest.raises(InputError, match=r"weights of .*bad\.safetensors are not finite"):
        EfficientNetLite0(tmp_path / "bad.safetensors")


def test_changed_or_missing_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Package:
        files = (Path("weights.pth"),)

        def locate_file(self, path: Path) -> Path:
            return tmp_path / path

    (tmp_path / "weights.pth").write_bytes(b"changed")
    monkeypatch.setattr(metadata, "distribution", lambda name: Package())
    assets._lite_file.cache_clear()
    with pytest.raises(InputError, match=r"is not 579344248a93e230.*: reinstall its package"):
        BackboneSource("efficientnet-lite0")

    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(InputError, match="is not installed: reinstall its package"):
        BackboneSource("efficientnet-lite0")
