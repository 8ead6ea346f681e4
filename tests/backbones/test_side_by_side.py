"""SideBySide: image sizes, order of the levels, names with sizes, saved models."""

from pathlib import Path

import pytest
import torch
from tests.contracts import BackboneContract
from tests.support_adapt import run, write_pictures

import diffsight
from diffsight.backbones import BackboneSource, EfficientNetLite0, SideBySide
from diffsight.errors import InputError
from diffsight.methods import FeatureHead
from diffsight.methods.feature_head import build_pyramid_backbone


class TestSideBySide(BackboneContract):
    """A contract test with one network at two sizes."""

    def build(self) -> SideBySide:
        torch.manual_seed(0)
        return SideBySide(
            [EfficientNetLite0(levels=(16,)), EfficientNetLite0(levels=(8,))], [32, 64]
        )

    def size(self, backbone: SideBySide) -> tuple[int, int]:
        return max(backbone.short_sides), 2 * max(backbone.short_sides)


def test_levels_are_ordered_by_their_stride_in_the_image() -> None:
    network = EfficientNetLite0(levels=(8, 16))
    pyramid = SideBySide([network, network], [64, 128])(torch.rand(1, 3, 100, 150))
    # stride 8 at a short side of 64 px is stride 16 of the largest image
    assert pyramid.strides == (8, 16, 16, 32)
    assert [tuple(one.shape[-2:]) for one in pyramid.features] == [
        (16, 24),
        (8, 12),
        (8, 12),
        (4, 6),
    ]
    assert pyramid.covered_hw(0) == pyramid.covered_hw(3) == (100, 150)


def test_each_backbone_reads_the_image_at_its_own_size() -> None:
    sizes: list[tuple[int, int]] = []
    network = EfficientNetLite0(levels=(8,))
    network.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    SideBySide([network, network], [64, 96])(torch.rand(1, 3, 480, 640))
    assert sizes == [(64, 96), (96, 128)]


@pytest.mark.parametrize("sides", [[], [32], [32, 64, 96]])
def test_another_number_of_sizes_than_backbones_is_refused(sides: list[int]) -> None:
    network = EfficientNetLite0(levels=(8,))
    with pytest.raises(InputError, match=f"2 backbones, but {len(sides)} sizes"):
        SideBySide([network, network], sides)


def test_a_name_may_list_several_backbones_with_sizes() -> None:
    source = BackboneSource("tiny+efficientnet-lite0@96")
    assert [(part.name, part.side_px) for part in source.parts] == [
        ("tiny", None),
        ("efficientnet-lite0", 96),
    ]
    assert str(source) == "tiny+efficientnet-lite0@96"
    assert source.short_side_px == 128
    assert not source.is_diffusion
    assert source.training_images == "rendered rooms and photographs"
    backbone = build_pyramid_backbone(source)
    assert isinstance(backbone, SideBySide)
    assert backbone.short_sides == (128, 96)
    with pytest.raises(InputError, match=r"tiny@8: a short side of 8 px: give 16 or more"):
        BackboneSource("tiny@8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite1", "no backbone of that name: did you mean 'efficientnet-lite0'"),
        ("dino2-small@64", "did you mean 'dinov2-small'"),
        ("tiny+", "the name of a backbone is missing"),
        ("", "the name of a backbone is missing"),
    ],
)
def test_unknown_names_of_backbones_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        BackboneSource(name)
    assert "\n" not in str(caught.value)


def test_a_folder_name_may_contain_plus_or_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a+b", "net@64"):
        (tmp_path / name / "unet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert BackboneSource("a+b").parts == ()
    source = BackboneSource("net@64")
    assert (str(source), source.side_px) == ("net@64", None)
    assert str(BackboneSource("net@64@128")) == "net@64@128"


def test_a_model_on_joined_backbones_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, count=3)
    options = {"method": "feature_head", "steps": 2}
    model = run(folder, "tiny@32+efficientnet-lite0@64", **options)
    assert isinstance(model.method, FeatureHead)
    assert model.info["short_side"] == 64
    assert set(model.method.frozen()) == {
        "backbone.backbones.0.backbone",
        "backbone.backbones.1",
    }
    path = diffsight.save(model, tmp_path / "model.safetensors")
    assert path.stat().st_size < 400_000
    again = diffsight.load(path)
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    first, second = (diffsight.pipeline(one)(image).values for one in (model, again))
    assert torch.equal(first, second)
