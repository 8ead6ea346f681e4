"""The converter's report and refusals, on tensors without storage; tests/parity checks values."""

import json
from pathlib import Path

import pytest
import torch

from diffsight.cli import main
from diffsight.hub.convert import (
    CONVERTERS,
    convert_vpd_depth,
    convert_vpd_referring,
    convert_vpd_segmentation,
    read_original,
)
from diffsight.types import InputError

PARITY = Path(__file__).parents[1] / "parity"


def shapes(model: str) -> dict[str, torch.Tensor]:
    """The authors' entries without their values."""
    manifest = json.loads((PARITY / model / "manifest.json").read_text())
    return {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in manifest.items()
    }


@pytest.fixture
def original() -> dict[str, torch.Tensor]:
    return shapes("vpd_depth")


def test_every_key_of_segmentation_is_accounted_for() -> None:
    original = shapes("vpd_seg")
    model, report = convert_vpd_segmentation(original)
    assert set(report.used) | set(report.dropped) == set(original)
    assert set(report.used.values()) == set(model.state_dict())
    assert not report.unused
    assert not report.missing
    dropped = {key: original[key].numel() for key in report.dropped if "sd_model" not in key}
    assert sum(n for key, n in dropped.items() if "post_quant_conv" in key) == 20
    assert sum(n for key, n in dropped.items() if ".diffusion_model.out." in key) == 12_164
    assert sum(dropped.values()) == 20 + 12_164
    ours = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(ours.values()) + 20 + 12_164 == 902_376_766
    learned = sum(n for name, n in ours.items() if ".vae." not in name)
    assert learned + 12_164 == 868_213_082
    assert model.method.prompts.names[-1] == "flag"
    with pytest.raises(InputError, match=r"150 rows, but 2 names.*--names"):
        convert_vpd_segmentation(original, names=["a", "b"])
    with pytest.raises(InputError, match="not a checkpoint of VPD depth: it looks like VPD seg"):
        convert_vpd_depth(original)


def test_every_key_of_referring_is_accounted_for() -> None:
    original = shapes("vpd_refer")
    model, report = convert_vpd_referring(original)
    assert set(report.used) | set(report.dropped) == set(original)
    assert set(report.used.values()) == set(model.state_dict())
    dropped = sum(original[key].numel() for key in report.dropped)
    assert dropped in (20, 20 + 12_164)
    assert sum(p.numel() for p in model.parameters()) + dropped == 934_043_562
    assert model.method.prompts.num_tokens == 40
    with pytest.raises(InputError, match="VPD segmentation: it looks like VPD or EVP referring"):
        convert_vpd_segmentation(original)


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [("evp-depth", "evp_depth", 933_814_544), ("evp-referring", "evp_refer", 1_079_442_336)],
)
def test_every_key_of_evp_is_accounted_for(kind: str, model: str, expected: int) -> None:
    original = shapes(model)
    converted, report = CONVERTERS[kind](original)
    assert set(report.used) | set(report.dropped) == set(original)
    assert set(report.used.values()) == set(converted.state_dict())
    constants = ("log_binomial_transform", "position_ids")
    dropped = sum(
        original[key].numel() for key in report.dropped if not any(c in key for c in constants)
    )
    assert dropped <= 20 + 12_164
    assert sum(p.numel() for p in converted.parameters()) + dropped == expected
    assert all(p.requires_grad for p in converted.parameters())
    assert converted.method.backbone.latent_scale == pytest.approx(
        1 / (5.07543 if kind == "evp-depth" else 4.7164)
    )
    with pytest.raises(InputError, match="not a checkpoint of VPD"):
        convert_vpd_segmentation(original)


def test_evp_with_its_own_captions_has_the_tower_inside() -> None:
    """The released training: no aggregated tokens, CLIP inside the encoder."""
    original = shapes("evp_depth")
    del original["encoder.class_embeddings"]
    inside = {key: v for key, v in shapes("evp_refer").items() if key.startswith("clip_model.")}
    for key, value in inside.items():
        name = key.removeprefix("clip_model.")
        original[f"encoder.clip_model.transformer.{name}"] = value
    model, report = CONVERTERS["evp-depth"](original, max_depth_m=80.0)
    assert not report.unused
    constants = ("log_binomial_transform", "position_ids")
    dropped = [key for key in report.dropped if not any(c in key for c in constants)]
    ours = sum(p.numel() for p in model.parameters())
    assert ours + sum(original[key].numel() for key in dropped) == 933_814_544 + 123_060_480
    assert model.method.backbone.latent_scale == pytest.approx(1 / 4.6211)


def test_every_key_is_accounted_for(original: dict[str, torch.Tensor]) -> None:
    model, report = convert_vpd_depth(original)
    assert len(original) == 839
    assert set(report.used) | set(report.dropped) == set(original)
    assert set(report.used.values()) == set(model.state_dict())
    assert sorted(report.dropped) == [
        "encoder.encoder_vq.post_quant_conv.bias",
        "encoder.encoder_vq.post_quant_conv.weight",
    ]
    assert not report.unused
    assert not report.missing
    assert report.summary() == "837 used, 2 dropped, 0 unused, 0 missing"
    floats = sum(v.numel() for v in original.values() if v.is_floating_point())
    ours = sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())
    assert floats - ours == 20
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters + 20 == 906_391_845


def test_the_scenes_are_the_authors_in_their_order(original: dict[str, torch.Tensor]) -> None:
    model, _ = convert_vpd_depth(original)
    assert model.method.prompts.names[3] == "study"
    assert len(model.method.prompts.names) == 27
    with pytest.raises(InputError, match=r"27 rows, but 2 names.*--names"):
        convert_vpd_depth(original, names=["a", "b"])


def test_an_entry_that_nobody_claims_is_reported(original: dict[str, torch.Tensor]) -> None:
    original["encoder.extra.weight"] = torch.empty(3, device="meta")
    _, report = convert_vpd_depth(original)
    assert report.unused == ["encoder.extra.weight"]


def test_a_missing_entry_stops_the_conversion(original: dict[str, torch.Tensor]) -> None:
    del original["encoder.layer2.0.weight"]
    with pytest.raises(
        InputError, match=r"1 entries are missing.*method.neck.level1.weight.*--partial"
    ):
        convert_vpd_depth(original)


def test_another_size_is_refused(original: dict[str, torch.Tensor]) -> None:
    original["encoder.out_layer.0.weight"] = torch.empty(1536, 3600, 1, 1, device="meta")
    with pytest.raises(InputError, match=r"out_layer.0.weight has shape \(1536, 3600, 1, 1\)"):
        convert_vpd_depth(original)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("decode_head.conv_seg.weight", "VPD segmentation"),
        ("classifier.conv1_4.weight", "referring segmentation"),
        ("seed_bin_regressor._net.0.weight", "EVP depth"),
    ],
)
def test_a_checkpoint_of_another_method_is_named(key: str, name: str) -> None:
    with pytest.raises(InputError, match=f"not a checkpoint of VPD depth: it looks like .*{name}"):
        convert_vpd_depth({key: torch.zeros(1)})


def test_containers_and_prefixes(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(2), "b": torch.zeros(1)}
    for name, content in {
        "model": {"model": state},
        "mm": {"state_dict": state},
        "plain": state,
    }.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        assert set(read_original(tmp_path / f"{name}.ckpt")) == {"a", "b"}
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        read_original(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="no tensors in it"):
        read_original(tmp_path / "none.pth")


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", b"PK\x03\x04 cut off"])
def test_broken_checkpoint_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"broken.ckpt: (not a readable checkpoint|refused)"):
        read_original(tmp_path / "broken.ckpt")


def test_command_reports_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(
        {"model": {"seed_bin_regressor._net.0.weight": torch.ones(1)}}, tmp_path / "evp.ckpt"
    )
    out = ["--out", str(tmp_path / "out")]
    assert main(["convert", "vpd-depth", str(tmp_path / "evp.ckpt"), *out]) == 2
    assert "it looks like EVP depth" in capsys.readouterr().err
    assert main(["convert", "vpd", str(tmp_path / "evp.ckpt"), *out]) == 2
    assert "unknown kind 'vpd': choose from evp-depth" in capsys.readouterr().err
    for option, value, message in (
        ("--max-depth", "80", "--max-depth: vpd-referring has none"),
        ("--encoder", "clip", "--encoder: vpd-depth has none"),
        ("--names", str(tmp_path / "none.txt"), "none.txt: cannot be read as a list of names"),
    ):
        kind = "vpd-referring" if option == "--max-depth" else "vpd-depth"
        assert main(["convert", kind, str(tmp_path / "evp.ckpt"), *out, option, value]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
