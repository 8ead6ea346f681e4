"""Converters: reports and refusals, on tensors without values; tests/parity checks values."""

import functools
import json
import logging
import math
from pathlib import Path

import pytest
import torch
from tests.support_models import ARCHITECTURE
from tests.support_originals import KINDS, shapes

import diffsight
from diffsight.backbones import StableDiffusion
from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.heads import DeconvHead
from diffsight.hub import read_config
from diffsight.hub.convert import (
    CONVERTERS,
    IncompleteError,
    convert_vpd_depth,
    convert_vpd_referring,
    convert_vpd_segmentation,
    vpd,
)
from diffsight.necks import Merging


@pytest.fixture
def original() -> dict[str, torch.Tensor]:
    return shapes("vpd_depth")


@pytest.fixture
def small(
    original: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """Return a small VPD depth checkpoint with the authors' names, and patch the converter."""
    _, report = convert_vpd_depth(original)
    # layers and changes of width are those of Stable Diffusion 1.5, so all names occur
    layers = {"layers_per_block": 2}
    architecture = {
        "unet": {**ARCHITECTURE["unet"], "block_out_channels": (4, 8, 16, 16), **layers},
        "vae": {**ARCHITECTURE["vae"], "block_out_channels": (2, 4, 8, 8), **layers},
    }
    monkeypatch.setattr(vpd, "StableDiffusion", lambda _: StableDiffusion(architecture))
    monkeypatch.setattr(vpd, "Merging", functools.partial(Merging, width=8, groups=4))
    head = functools.partial(DeconvHead, widths=(8, 8, 8), width=8)
    monkeypatch.setattr(vpd, "DeconvHead", head)
    distinctive = {
        "encoder.class_embeddings": torch.randn(27, 8),
        "last_layer_depth.0.weight": torch.randn(8, 8, 3, 3),
    }
    model, _ = convert_vpd_depth(distinctive, partial=True)
    values = model.state_dict()
    return {key: values[ours].clone() for key, ours in report.used.items()}


def test_every_key_of_vpd_segmentation_is_used_or_dropped() -> None:
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
    trained = sum(n for name, n in ours.items() if ".vae." not in name)
    assert trained + 12_164 == 868_213_082
    assert model.method.prompts.names[-1] == "flag"
    with pytest.raises(InputError, match=r"150 rows, but 2 names.*--names"):
        convert_vpd_segmentation(original, names=["a", "b"])


def test_every_key_of_vpd_referring_is_used_or_dropped() -> None:
    original = shapes("vpd_refer")
    model, report = convert_vpd_referring(original)
    assert set(report.used) | set(report.dropped) == set(original)
    assert set(report.used.values()) == set(model.state_dict())
    dropped = sum(original[key].numel() for key in report.dropped)
    assert dropped in (20, 20 + 12_164)
    assert sum(p.numel() for p in model.parameters()) + dropped == 934_043_562
    assert model.method.prompts.num_tokens == 40


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [("evp-depth", "evp_depth", 933_814_544), ("evp-referring", "evp_refer", 1_079_442_336)],
)
def test_every_key_of_evp_is_used_or_dropped(kind: str, model: str, expected: int) -> None:
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


@pytest.mark.parametrize("latent_std", [0.0, -1.0, math.nan, math.inf])
def test_a_latent_std_that_is_not_positive_is_refused(latent_std: float) -> None:
    with pytest.raises(InputError, match=r"latent_std is .*: give a positive number"):
        CONVERTERS["evp-depth"](shapes("evp_depth"), latent_std=latent_std)


def test_an_evp_checkpoint_with_a_text_encoder_instead_of_captions_is_converted() -> None:
    """The released training code has CLIP inside the encoder instead of aggregated tokens."""
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
    for other in set(KINDS) - {"evp-depth"}:
        with pytest.raises(InputError, match="looks like EVP depth: convert it as evp-depth"):
            CONVERTERS[other](original)


@pytest.mark.parametrize("theirs", KINDS)
def test_a_checkpoint_is_accepted_by_its_own_converter_only(theirs: str) -> None:
    original = shapes(KINDS[theirs])
    assert set(KINDS) == set(CONVERTERS)
    for kind, converter in CONVERTERS.items():
        if kind == theirs:
            _, report = converter(original)
            assert not report.unused
            assert not report.missing
            continue
        with pytest.raises(InputError, match=rf"looks like .*: convert it as {theirs}$") as refusal:
            converter(original, partial=True)
        assert "\n" not in str(refusal.value)


def test_every_key_of_vpd_depth_is_used_or_dropped(original: dict[str, torch.Tensor]) -> None:
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


def test_the_scene_names_are_in_the_authors_order(original: dict[str, torch.Tensor]) -> None:
    model, _ = convert_vpd_depth(original)
    assert model.method.prompts.names[3] == "study"
    assert len(model.method.prompts.names) == 27
    with pytest.raises(InputError, match=r"27 rows, but 2 names.*--names"):
        convert_vpd_depth(original, names=["a", "b"])


def test_an_unused_entry_is_reported(original: dict[str, torch.Tensor]) -> None:
    original["encoder.extra.weight"] = torch.empty(3, device="meta")
    _, report = convert_vpd_depth(original)
    assert report.unused == ["encoder.extra.weight"]


def test_a_missing_entry_stops_the_conversion(original: dict[str, torch.Tensor]) -> None:
    del original["encoder.layer2.0.weight"]
    with pytest.raises(
        InputError, match=r"1 entry is missing \(method.neck.level1.weight\).*--partial"
    ):
        convert_vpd_depth(original)
    for key in [key for key in original if key.startswith("encoder.layer1.")]:
        del original[key]
    with pytest.raises(IncompleteError, match=r"7 entries are missing \(.*level0") as refusal:
        convert_vpd_depth(original)
    assert "\n" not in str(refusal.value)
    missing = refusal.value.report.missing
    assert len(missing) == 7
    assert "method.neck.level1.weight" in missing
    assert sum(".level0." in key for key in missing) == 6
    assert len(refusal.value.report.used) == 837 - 7


def test_weights_that_are_not_finite_are_refused(small: dict[str, torch.Tensor]) -> None:
    small["encoder.layer2.0.weight"].view(-1)[3] = torch.inf
    with pytest.raises(InputError, match=r"of the checkpoint are not finite \(first method.neck"):
        convert_vpd_depth(small)


def test_partial_fills_missing_entries_with_random_values(small: dict[str, torch.Tensor]) -> None:
    del small["encoder.layer2.0.weight"]
    model, report = convert_vpd_depth(small, partial=True)
    assert report.missing == ["method.neck.level1.weight"]
    values = model.state_dict()
    assert set(report.used.values()) | set(report.missing) == set(values)
    assert all(values[ours].equal(small[key]) for key, ours in report.used.items())
    random = values["method.neck.level1.weight"]
    assert not random.is_meta
    assert random.isfinite().all()
    assert random.std() > 0


def test_an_entry_of_another_shape_is_refused(original: dict[str, torch.Tensor]) -> None:
    original["encoder.out_layer.0.weight"] = torch.empty(1536, 3600, 1, 1, device="meta")
    with pytest.raises(InputError, match=r"out_layer.0.weight has shape \(1536, 3600, 1, 1\)"):
        convert_vpd_depth(original)


def test_the_error_for_an_unknown_checkpoint_names_its_first_entry() -> None:
    with pytest.raises(
        InputError,
        match=r"not a checkpoint of VPD depth: it has no last_layer.* \(its first entry is enc",
    ):
        convert_vpd_depth({"encoder.class_embeddings": torch.zeros(27, 768)})
    with pytest.raises(InputError, match=r"of EVP depth: .* \(its first entry is none\)"):
        CONVERTERS["evp-depth"]({})


def test_the_command_prints_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("seed_bin_regressor._net.0.weight", "encoder.aggregation.layer1.conv1.weight")
    torch.save({"model": dict.fromkeys(keys, torch.ones(1))}, tmp_path / "evp.ckpt")
    out = ["--out", str(tmp_path / "out")]
    assert main(["convert", "vpd-depth", str(tmp_path / "evp.ckpt"), *out]) == 2
    assert "it looks like EVP depth: convert it as evp-depth" in capsys.readouterr().err
    assert main(["convert", "vpd", str(tmp_path / "evp.ckpt"), *out]) == 2
    assert "unknown kind 'vpd': choose from ddp-bev" in capsys.readouterr().err
    for option, value, message in (
        ("--max-depth", "80", "--max-depth: vpd-referring does not have this option"),
        ("--encoder", "clip", "--encoder: vpd-depth does not have this option"),
        ("--names", str(tmp_path / "none.txt"), "none.txt: cannot be read as a list of names"),
    ):
        kind = "vpd-referring" if option == "--max-depth" else "vpd-depth"
        assert main(["convert", kind, str(tmp_path / "evp.ckpt"), *out, option, value]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_model_that_loads(
    tmp_path: Path,
    small: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    small["encoder.encoder_vq.post_quant_conv.bias"] = torch.zeros(4)
    small["encoder.extra"] = torch.zeros(1)
    content = {"model": {f"module.{key}": v for key, v in small.items()}, "epoch": 3}
    torch.save(content, tmp_path / "best.ckpt")
    names = [f"scene {i}" for i in range(27)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    command = ["convert", "vpd-depth", str(tmp_path / "best.ckpt"), "--max-depth", "80"]
    command += ["--names", str(tmp_path / "names.txt")]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "837 used, 2 dropped, 1 unused, 0 missing" in caplog.text
    for line in (
        "  dropped epoch: not part of model, which has the weights",
        "  dropped encoder.encoder_vq.post_quant_conv.bias: belongs to the VAE's decoder",
        "  unused encoder.extra",
    ):
        assert line in caplog.text
    assert not capsys.readouterr().out

    assert main([*command, "--out", str(tmp_path / "b"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"used", "dropped", "unused", "missing"}
    assert set(report["dropped"]) == {"epoch", "encoder.encoder_vq.post_quant_conv.bias"}
    assert report["unused"] == ["encoder.extra"]
    assert report["missing"] == []
    for name in ("a", "b"):
        model = diffsight.load(tmp_path / name)
        assert model.task.max_depth_m == 80
        # training images of KITTI were cropped, not resized
        assert "short_side" not in read_config(tmp_path / name)["info"]
        assert tuple(model.method.prompts.names) == tuple(names)
        values = model.state_dict()
        assert set(report["used"].values()) == set(values)
        assert all(values[ours].equal(small[key]) for key, ours in report["used"].items())


def test_the_command_lists_missing_entries(
    tmp_path: Path,
    small: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for key in [key for key in small if key.startswith("encoder.layer1.")]:
        del small[key]
    torch.save({"model": small, "epoch": 3}, tmp_path / "cut.ckpt")
    out = tmp_path / "out"
    command = ["convert", "vpd-depth", str(tmp_path / "cut.ckpt"), "--out", str(out)]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert "6 entries are missing (method.neck.level0.0.bias, " in printed.err.splitlines()[-1]
    assert "--partial" in printed.err.splitlines()[-1]
    listed = [r.getMessage().split()[1] for r in caplog.records if r.msg == "  %s %s"]
    assert len(listed) == 6
    assert "  dropped epoch: " in caplog.text
    assert main([*command, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["missing"] == listed
    assert not out.exists()

    caplog.clear()
    assert main([*command, "--partial"]) == 0
    assert "831 used, 1 dropped, 0 unused, 6 missing" in caplog.text
    assert all(f"  missing {key}" in caplog.text for key in listed)
    assert read_config(out)["info"]["short_side"] == 480
    values = diffsight.load(out).state_dict()
    assert values["method.neck.level0.0.weight"].std() > 0
    assert values["method.neck.level1.weight"].equal(small["encoder.layer2.0.weight"])
