"""Weights are loaded from diffusers folders, here from the packaged model."""

import functools
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tests.support_pipeline import STRIDE, WIDTH

from diffsight import assets, hub
from diffsight.backbones import StableDiffusion, diffusion_weights
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.heads import DeconvHead
from diffsight.hub.build import without_weights
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import Merging
from diffsight.prompts import TextTable
from diffsight.tasks import Depth
from diffsight.types import Inputs

VAE_FILE = Path("vae") / "diffusion_pytorch_model.safetensors"


def fingerprint(module: torch.nn.Module) -> str:
    return hub.fingerprint(module.state_dict().items())


def build_depth_model(**backbone: object) -> DenseModel:
    return DenseModel(
        task=Depth(),
        method=functools.partial(
            VPD,
            backbone=StableDiffusion("tiny", **backbone),
            prompts=TextTable(["kitchen"], dim=WIDTH),
            neck=functools.partial(Merging, width=8, groups=4),
            head=functools.partial(DeconvHead, widths=(8, 8, 8), width=8),
        ),
    ).eval()


def test_architecture_and_weights_equal_those_of_the_files(embedded: Path) -> None:
    backbone = StableDiffusion("tiny")
    unet = UNet2DConditionModel.from_pretrained(embedded / "unet")
    assert backbone.channels == tuple(unet.config.block_out_channels)
    assert backbone.strides == (STRIDE, 2 * STRIDE, 4 * STRIDE, 8 * STRIDE)
    assert backbone.context_dim == WIDTH
    theirs = unet.state_dict() | {
        f"vae.{name}": value
        for name, value in AutoencoderKL.from_pretrained(embedded / "vae").state_dict().items()
    }
    ours = {name.removeprefix("unet."): value for name, value in backbone.state_dict().items()}
    for name, value in ours.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, theirs[name].float()), name
    unused = {name.split(".")[0] for name in theirs.keys() - ours.keys() if name[:4] != "vae."}
    assert unused == {"conv_norm_out", "conv_out"}


def test_the_loading_report_lists_the_unused_decoder_with_a_reason(embedded: Path) -> None:
    report = diffusion_weights.load_part(StableDiffusion("tiny").vae, "vae", embedded)
    assert {name.split(".")[0] for name in report.dropped} == {"decoder", "post_quant_conv"}
    assert set(report.dropped.values()) == {"not part of the trunk or of the encoder"}
    assert not report.missing


def test_an_architecture_without_weights_is_initialised_randomly(embedded: Path) -> None:
    loaded = StableDiffusion("tiny").state_dict()
    architecture = to_config(StableDiffusion("tiny"))["init_args"]["architecture"]
    for same in (
        StableDiffusion("tiny", weights="tiny"),
        StableDiffusion("tiny", weights=embedded),
        StableDiffusion(architecture, weights="tiny"),
    ):
        assert fingerprint(same) == fingerprint(StableDiffusion("tiny"))
    for other in (StableDiffusion("tiny", weights=None), StableDiffusion(architecture)):
        random = other.state_dict()
        assert random.keys() == loaded.keys()
        assert not torch.equal(random["unet.conv_in.weight"], loaded["unet.conv_in.weight"])


def test_weights_of_another_architecture_are_refused(embedded: Path) -> None:
    with pytest.raises(InputError, match="check the architecture argument"):
        StableDiffusion("sd15", weights="tiny")


def test_a_method_on_the_embedded_model_accepts_any_image_size(embedded: Path) -> None:
    with torch.no_grad():
        maps = build_depth_model()(Inputs(torch.rand(2, 3, 96, 130))).maps
    assert maps.shape == (2, 1, 96, 130)
    assert maps.isfinite().all()


def test_a_saved_model_does_not_need_the_embedded_files(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later release may embed a model with other weights and another architecture."""
    model = build_depth_model()
    hub.save(model, tmp_path / "model")
    config = hub.read_config(tmp_path / "model")
    assert config["info"]["base_weights"] == ["tiny"]
    backbone = config["method"]["init_args"]["backbone"]["init_args"]
    assert backbone["weights"] is None
    assert backbone["architecture"]["unet"]["block_out_channels"] == [8, 16, 16, 24]
    monkeypatch.setattr(assets, "FOLDER", tmp_path / "gone")
    assert fingerprint(hub.load(tmp_path / "model")) == config["fingerprint"]


def test_the_architecture_is_read_from_the_files(embedded: Path) -> None:
    path = embedded / "unet" / "config.json"
    config = json.loads(path.read_text())
    config.update(block_out_channels=[8, 8, 16, 16], time_embedding_dim=40)
    path.write_text(json.dumps(config))
    assets.write_checksums(embedded)
    backbone = StableDiffusion("tiny", weights=None)
    assert backbone.channels == (8, 8, 16, 16)
    assert backbone.unet.time_embedding.linear_2.out_features == 40


def test_a_random_model_has_no_weight_source(embedded: Path) -> None:
    config = to_config(StableDiffusion("tiny", weights=None))
    assert without_weights(config)[1] == []


def test_damaged_files_are_refused(embedded: Path) -> None:
    (embedded / VAE_FILE).write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"vae.*safetensors: cut off or changed.*reinstall"):
        StableDiffusion("tiny")


def test_old_names_of_attention_weights_are_converted(embedded: Path) -> None:
    """The VAE of Stable Diffusion 1.x on the hub still has the names of old diffusers versions."""
    model = StableDiffusion("tiny")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in load_file(embedded / VAE_FILE).items():
        for new, former in names.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        renamed[name] = value
    assert "encoder.mid_block.attentions.0.query.weight" in renamed
    save_file(renamed, embedded / VAE_FILE)
    architecture = to_config(model)["init_args"]["architecture"]
    again = StableDiffusion(architecture, weights=embedded)
    assert fingerprint(again) == fingerprint(model)
