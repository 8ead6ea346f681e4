"""Converters of DDP: the report on the encoder's entries, and incomplete checkpoints."""

import re
from pathlib import Path

import pytest
import torch
from tests.support_originals import KINDS, shapes

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.hub.convert import CONVERTERS, IncompleteError
from diffsight.model import DenseModel

State = dict[str, torch.Tensor]
CONVNEXT = "ddp_seg/manifest_convnext_t"
TABLE = "attn.w_msa.relative_position_bias_table"
LATER_BLOCKS = re.compile(r".*(backbone\.stages\.\d\.(blocks\.)?[1-9]|encoder\.layers\.[2-9]\.)")


def shallow(kind: str, manifest: str | None = None) -> State:
    """Return an authors' checkpoint without values, and without all but the first blocks."""
    state = shapes(manifest or KINDS[kind])
    return {key: value for key, value in state.items() if not LATER_BLOCKS.match(key)}


def names_of(state: State) -> dict[str, list[str]]:
    """Return the option ``names`` for a segmentation checkpoint, else nothing."""
    classes = state.get("decode_head.conv_seg.weight")
    return {} if classes is None else {"names": [f"class {i}" for i in range(len(classes))]}


def filled(state: State) -> State:
    """Return the entries of a checkpoint with values, all of which are 0."""
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


def convert(kind: str, state: State, *, partial: bool = False) -> tuple[DenseModel, KeyReport]:
    """Return the model of a checkpoint and the report on its entries."""
    return CONVERTERS[kind](state, partial=partial, **names_of(state))


@pytest.mark.parametrize(
    ("kind", "manifest"),
    [
        ("ddp-segmentation", None),
        ("ddp-segmentation", CONVNEXT),
        ("ddp-depth", None),
        ("ddp-bev", None),
    ],
)
def test_the_report_lists_the_names_of_the_checkpoint(kind: str, manifest: str | None) -> None:
    state = shallow(kind, manifest)
    state["backbone.extra.weight"] = torch.empty(3, device="meta")
    prefix = "encoders.camera.backbone." if kind == "ddp-bev" else "backbone."
    unknown = [f"{prefix}stages.0.extra.weight", f"{prefix}norm9.weight"]
    unknown += [f"{prefix}hidden_states_norms.stage1.weight"]  # a name in transformers
    state |= dict.fromkeys(unknown, torch.empty(96, device="meta"))
    model, report = convert(kind, state)
    assert set(report.unused) == {"backbone.extra.weight", *unknown}
    assert set(report.used) | set(report.dropped) | set(report.unused) == set(state)
    assert len(report.used) + len(report.dropped) + len(report.unused) == len(state)
    ours = [name for names in report.used.values() for name in names.split(", ")]
    assert sorted(ours) == sorted(model.state_dict())
    constant = re.compile(r".*(relative_position_index|vtransform\.(dx|bx|nx|frustum))$")
    assert set(report.dropped) == {key for key in state if constant.match(key)}
    if manifest is None:
        (name,) = (n for k, n in report.used.items() if k.endswith("stages.0.blocks.0.norm1.bias"))
        assert name.endswith("swin.encoder.layers.0.blocks.0.layernorm_before.bias")


@pytest.mark.parametrize(
    ("kind", "manifest", "stages"),
    [
        ("ddp-segmentation", None, (1, 2)),
        ("ddp-segmentation", CONVNEXT, (1, 2)),
        ("ddp-bev", None, (2,)),
    ],
)
def test_missing_norms_of_feature_maps_stop_the_conversion(
    kind: str, manifest: str | None, stages: tuple[int, ...]
) -> None:
    norms = re.compile(r".*backbone\.norm[01]\.")
    state = {key: v for key, v in shallow(kind, manifest).items() if not norms.match(key)}
    with pytest.raises(IncompleteError, match=r"missing .*hidden_states_norms") as refusal:
        convert(kind, state)
    missing = refusal.value.report.missing
    assert [name.partition("hidden_states_norms.")[2] for name in missing] == [
        f"stage{stage}.{part}" for stage in stages for part in ("bias", "weight")
    ]


def test_partial_keeps_the_values_of_the_encoder_and_fills_what_is_missing() -> None:
    """The three parts of an entry ``qkv`` are three entries of the model."""
    state = filled(shallow("ddp-segmentation"))
    joined = "backbone.stages.0.blocks.0.attn.w_msa.qkv.bias"
    state[joined] = torch.arange(3 * 96.0)
    del state["backbone.norm0.weight"]
    model, report = convert("ddp-segmentation", state, partial=True)
    assert report.missing == ["method.backbone.network.hidden_states_norms.stage1.weight"]
    values = model.state_dict()
    parts = [values[name] for name in report.used[joined].split(", ")]
    assert torch.cat(parts).equal(state[joined])
    assert not any(value.is_meta for value in values.values())
    assert values[report.missing[0]].eq(1).all()


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("kind", "manifest", "absent", "named"),
    [
        ("ddp-segmentation", None, "embedding_table.weight", None),
        ("ddp-segmentation", None, "neck.1.down.conv.weight", None),
        ("ddp-segmentation", None, "decode_head.encoder.layers.0.ffns.0.layers.0.0.weight", None),
        ("ddp-segmentation", None, "decode_head.encoder.layers.0.time_mlp.1.weight", None),
        ("ddp-depth", None, "decode_head.encoder.", "decode_head.encoder.layers.0.ffns"),
        ("ddp-depth", None, f"backbone.stages.3.blocks.0.{TABLE}", None),
        ("ddp-depth", None, "backbone.stages.2.", f"backbone.stages.2.blocks.0.{TABLE}"),
        ("ddp-segmentation", CONVNEXT, "backbone.stages.1.", "backbone.stages.1.0.depthwise_conv"),
        ("ddp-bev", None, "embedding_table.weight", None),
        ("ddp-bev", None, "transform.conv.weight", None),
        ("ddp-bev", None, "heads.map.encoder.layers.0.ffns.0.layers.0.0.weight", None),
        ("ddp-bev", None, f"encoders.camera.backbone.stages.0.blocks.0.{TABLE}", None),
    ],
)
def test_a_missing_entry_whose_shape_is_needed_is_named(
    kind: str, manifest: str | None, absent: str, named: str | None, partial: bool
) -> None:
    state = {k: v for k, v in shallow(kind, manifest).items() if not k.startswith(absent)}
    with pytest.raises(InputError) as refusal:
        convert(kind, state, partial=partial)
    message = str(refusal.value)
    assert message.startswith(f"the checkpoint is incomplete, {named or absent}")
    assert "is missing, whose shape is needed also with --partial: use a complete" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "name", "shape", "message"),
    [
        ("ddp-segmentation", "embedding_table.weight", (151,), "needs 2 axes, none of them empty"),
        ("ddp-depth", "neck.1.down.conv.weight", (0, 8, 1, 1), "needs 4 axes, none of them empty"),
        ("ddp-depth", f"backbone.stages.0.blocks.0.{TABLE}", (), "needs 2 axes, none of"),
        ("ddp-depth", "backbone.stages.0.blocks.0.attn.w_msa.qkv.bias", (7,), "into 3 parts"),
        ("ddp-depth", "backbone.stages.0.blocks.0.attn.w_msa.qkv.bias", (), "into 3 parts"),
        ("ddp-depth", "backbone.stages.0.downsample.norm.bias", (6,), "into 4 parts"),
        ("ddp-bev", "encoders.camera.vtransform.depthnet.weight", (80, 8, 1, 1), "80 rows"),
    ],
)
def test_entries_of_a_wrong_shape_are_refused(
    kind: str, name: str, shape: tuple[int, ...], message: str
) -> None:
    state = shallow(kind) | {name: torch.empty(shape, device="meta")}
    with pytest.raises(InputError, match=rf"^{re.escape(name)} has .*{message}.*: convert a check"):
        convert(kind, state)


def test_a_part_of_a_wrong_shape_is_named_with_its_name_in_the_model() -> None:
    name = "backbone.stages.0.blocks.0.attn.w_msa.qkv.bias"
    state = shallow("ddp-depth") | {name: torch.empty(6, device="meta")}
    with pytest.raises(InputError, match=rf"^{name} \(as method\.backbone\.\S+\) has shape \(2,\)"):
        convert("ddp-depth", state)


def test_the_command_refuses_an_incomplete_checkpoint_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = filled(shallow("ddp-segmentation"))
    del state["embedding_table.weight"]
    torch.save({"state_dict": state}, tmp_path / "cut.pth")
    command = ["convert", "ddp-segmentation", str(tmp_path / "cut.pth"), "--partial"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "embedding_table.weight is missing" in line
    assert not (tmp_path / "out").exists()
