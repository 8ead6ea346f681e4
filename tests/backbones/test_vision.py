"""Vision backbones from the library transformers, with random weights, and methods on them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.contracts import BackboneContract
from tests.support import images
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    SwinConfig,
    SwinModel,
)

import diffsight
from diffsight.backbones import BackboneSource, ClipTokens, ClipVision, VisionBackbone
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.methods import FeatureHead, LinearProbe
from diffsight.model import DenseModel
from diffsight.tasks import Depth, Segmentation
from diffsight.types import Inputs, Pyramid

DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
NETWORKS: dict[str, Any] = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**DINO, image_size=32, mlp_ratio=2)),
    "swin": lambda: SwinModel(
        SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4)
    ),
    "convnext": lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)),
}
CLIP = {
    **DINO,
    "image_size": 32,
    "intermediate_size": 32,
    "projection_dim": 8,
}
SHAPES = {
    "dinov2": ((16,), (8,)),
    "swin": ((8, 16, 32, 64), (4, 8, 16, 32)),
    "convnext": ((8, 8, 16, 16), (4, 8, 16, 32)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("networks") / request.param
    NETWORKS[request.param]().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)).save_pretrained(path)
    return path


def test_channels_and_strides_are_those_of_the_network(folder: Path) -> None:
    backbone = VisionBackbone(folder).eval()
    assert (backbone.channels, backbone.strides) == SHAPES[folder.name]
    assert backbone.size_multiple == max(backbone.strides)
    with torch.no_grad():
        pyramid = backbone(images(2, 64, 96))
    for level, (feature, stride) in enumerate(zip(pyramid.features, backbone.strides, strict=True)):
        assert feature.shape == (2, backbone.channels[level], 64 // stride, 96 // stride)
    assert (pyramid.valid_hw, pyramid.covered_hw(-1)) == ((64, 96), (64, 96))
    with pytest.raises(InputError, match=f"multiples of {backbone.size_multiple} px"):
        backbone(images(1, 64, 97))


def test_stages_can_be_chosen(folder: Path) -> None:
    backbone = VisionBackbone(folder, stages=("stage1", "stage2"), trainable=False)
    assert len(backbone.channels) == len(backbone.strides) == 2
    assert not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(InputError, match="no vision backbone"):
        VisionBackbone(folder, stages=("stage9",))


def test_recorded_arguments_rebuild_the_network_without_its_files(folder: Path) -> None:
    backbone = VisionBackbone(folder, trainable=False).eval()
    arguments = to_config(backbone)["init_args"]
    stages = tuple(arguments["stages"])
    again = VisionBackbone(**{**arguments, "weights": None, "stages": stages}).eval()
    again.load_state_dict(backbone.state_dict())
    image = images(1, 64, 64)
    with torch.no_grad():
        pairs = zip(again(image).features, backbone(image).features, strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert (again.source, backbone.source) == (None, str(folder))


def test_weights_of_another_network_are_refused(folder: Path, clip: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such file or folder"):
        VisionBackbone(clip / "nothing")
    with pytest.raises(InputError, match="no vision backbone"):
        VisionBackbone(clip)
    with pytest.raises(InputError, match="give weights or an architecture"):
        VisionBackbone(None)
    arguments = to_config(VisionBackbone(folder))["init_args"]["architecture"]
    small = {**arguments, "hidden_size": 8, "embed_dim": 4, "hidden_sizes": [4] * 4}
    with pytest.raises(InputError, match="of another architecture"):
        VisionBackbone(folder, architecture=small)


@pytest.mark.parametrize("method", [FeatureHead, LinearProbe])
def test_few_shot_methods_run_on_a_vision_backbone(folder: Path, method: Any) -> None:
    """Predictions have the size of the image; the backbone is never trained."""
    source = BackboneSource(folder)
    assert not source.is_diffusion
    task = Depth(bins=3).fitted(torch.linspace(0.5, 4, 200)[:, None])
    model = DenseModel(task=task, method=method.from_backbone(source)).eval()
    assert set(model.method.frozen()) == {"backbone"}
    with torch.no_grad():
        output = model(Inputs(images(2, 37, 90)))
    assert output.hw == (37, 90)
    torch.testing.assert_close(output.probability.sum(dim=1), torch.ones(2, 37, 90))
    (first, _) = task.decode(output)
    assert first.hw == (37, 90)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert not any(name.startswith("method.backbone.") for name in trainable)


def test_a_model_on_a_vision_backbone_can_be_saved(folder: Path, tmp_path: Path) -> None:
    task = Segmentation(("wall", "door"))
    model = DenseModel(task=task, method=LinearProbe.from_backbone(BackboneSource(folder))).eval()
    diffsight.save(model, tmp_path / "model")
    loaded = diffsight.load(tmp_path / "model").eval()
    inputs = Inputs(images(1, 64, 64))
    with torch.no_grad():
        assert torch.equal(loaded(inputs).maps, model(inputs).maps)


def test_the_short_side_is_that_of_the_training_images(folder: Path) -> None:
    assert BackboneSource(folder).short_side_px == {"dinov2": 32}.get(folder.name, 224)


@pytest.mark.parametrize(("side", "grid"), [(None, 4), (48, 6)])
def test_clip_tokens_are_ordered_row_by_row(clip: Path, side: int | None, grid: int) -> None:
    backbone = ClipTokens(ClipVision(clip), side=side)
    image = images(2, 40, 60)
    pyramid = backbone(image)
    (tokens,) = pyramid.features
    assert tokens.shape == (2, 16, grid, grid)
    assert (pyramid.valid_hw, pyramid.covered_hw(0)) == ((40, 60), (40, 60))
    small = backbone.preprocess(image)
    assert small.shape[-2:] == (grid * 8, grid * 8)
    tower = backbone.clip.tower
    rows = tower(pixel_values=small, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    torch.testing.assert_close(tokens[:, :, 1, 2], rows[:, grid + 2])


def test_clip_refuses_sides_that_are_not_multiples_of_the_patch(clip: Path) -> None:
    with pytest.raises(InputError, match="multiples of 8 pixels"):
        ClipTokens(ClipVision(clip), side=20)
    assert ClipTokens(ClipVision(clip)).size_multiple == 1


def test_maps_from_clip_tokens_cover_the_whole_image(clip: Path) -> None:
    """The grid of tokens is square, whatever the aspect ratio of the image."""
    task = Segmentation(("wall", "door"))
    for method in (FeatureHead, LinearProbe):
        torch.manual_seed(0)
        backbone = ClipTokens(ClipVision(clip))
        model = DenseModel(task=task, method=partial(method, backbone=backbone)).eval()
        with torch.no_grad():
            maps = model(Inputs(images(1, 80, 120))).maps
        assert maps.shape == (1, 2, 80, 120)


class TestVisionBackbone(BackboneContract):
    @pytest.fixture(autouse=True)
    def _with_folder(self, folder: Path) -> None:
        self.folder = folder

    # feature maps use neither the tokens of pretraining nor the final normalisation
    without_gradient = ("mask_token", "swin.layernorm.", "cls_token")

    def build(self) -> VisionBackbone:
        torch.manual_seed(0)
        return VisionBackbone(self.folder)


class TestClipTokens(BackboneContract):
    """The grid does not depend on the size of the image, and no parameter is trained."""

    @pytest.fixture(autouse=True)
    def _with_folder(self, clip: Path) -> None:
        self.folder = clip

    def build(self) -> ClipTokens:
        return ClipTokens(ClipVision(self.folder))

    def size(self, backbone: ClipTokens) -> tuple[int, int]:
        return 32, 32

    def test_gradients_reach_trainable_parameters(self) -> None:
        backbone = self.build()
        assert not any(p.requires_grad for p in backbone.parameters())
        pyramid: Pyramid = backbone(images(1, 32, 32))
        assert not pyramid.features[0].requires_grad


def test_position_tables_of_swin_are_resized_to_other_windows(tmp_path: Path) -> None:
    """The resizing is bicubic, as in mmsegmentation; all other weights are unchanged."""
    torch.manual_seed(0)
    config = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    SwinModel(SwinConfig(**config, window_size=4)).save_pretrained(tmp_path)
    same = VisionBackbone(tmp_path)
    architecture = {"model_type": "swin", **config, "window_size": 7}
    normalised = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    wide = VisionBackbone(tmp_path, architecture={**architecture, **normalised})
    ours, theirs = wide.network.state_dict(), same.network.state_dict()
    (name, *_) = [key for key in ours if key.endswith("relative_position_bias_table")]
    assert (len(theirs[name]), len(ours[name])) == (49, 169)
    grid = theirs[name].T.reshape(1, -1, 7, 7)
    expected = torch.nn.functional.interpolate(grid, (13, 13), mode="bicubic")
    torch.testing.assert_close(ours[name], expected[0].flatten(1).T)
    for key in theirs:
        if "relative_position" not in key:
            assert torch.equal(ours[key], theirs[key]), key
    with torch.no_grad():
        assert wide.eval()(images(1, 64, 64)).features[0].isfinite().all()
    state = load_file(tmp_path / "model.safetensors")
    (name, *_) = [key for key in state if key.endswith("relative_position_bias_table")]
    save_file({**state, name: state[name][1:]}, tmp_path / "model.safetensors")  # no square
    with pytest.raises(InputError, match="its weights fit no vision backbone"):
        VisionBackbone(tmp_path, architecture={**architecture, **normalised})


def test_exporting_uses_plain_attention_of_swin_and_then_the_previous_one(tmp_path: Path) -> None:
    architecture = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    SwinModel(SwinConfig(**architecture)).save_pretrained(tmp_path)
    backbone = VisionBackbone(tmp_path)
    config = backbone.network.config
    before = config._attn_implementation
    with backbone.exporting():
        assert config._attn_implementation == "eager" != before
    assert config._attn_implementation == before
