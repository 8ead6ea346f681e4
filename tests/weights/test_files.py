"""Choosing, reading and writing files of weights, and errors for damaged ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.support_weights import rewrite, rewrite_in_layout

from diffsight.backbones import BackboneSource, ClipVision
from diffsight.errors import InputError
from diffsight.prompts.encoder import load_text_model
from diffsight.weights import read_folder, require_finite, variant_of, weight_files


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], 0),
        (["model.fp16.safetensors", "pytorch_model.bin"], 0),
        (["model.non_ema.safetensors", "pytorch_model.bin"], 1),
        (["model.bf16.safetensors", "model.mine.safetensors", "model.fp16.safetensors"], 2),
        (["tf_model.h5", "model.safetensors.index.json", "config.json", "pytorch_model.bin"], 3),
        # the sharded copy is incomplete
        (["model-00001-of-00002.safetensors", "pytorch_model.bin"], 1),
    ],
)
def test_one_copy_of_the_weights_is_chosen(names: list[str], expected: int) -> None:
    assert weight_files(names) == [names[expected]]


def test_files_that_are_not_weights_of_a_part_are_not_chosen() -> None:
    names = ["v1-5-pruned.safetensors", "flax_model.msgpack", "optimizer.bin", "lora.safetensors"]
    assert weight_files(names) == []


def test_the_variant_is_that_of_the_chosen_weights(tmp_path: Path) -> None:
    assert variant_of(tmp_path) is None
    (tmp_path / "model.bf16-00001-of-00001.safetensors").touch()
    assert variant_of(tmp_path) == "bf16"
    (tmp_path / "model.safetensors").touch()
    assert variant_of(tmp_path) is None


def test_a_missing_shard_is_an_error_in_one_line(pipeline: Path) -> None:
    unet = rewrite_in_layout(pipeline, "sharded") / "unet"
    (unet / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    message = r"unet: diffusion_pytorch_model-00001.*only 2 of 3 files .*download or copy"
    with pytest.raises(InputError, match=message):
        BackboneSource(pipeline).fresh_diffusion(trainable=())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder"])
def test_a_part_without_weights_is_an_error_in_one_line(pipeline: Path, part: str) -> None:
    for path in (pipeline / part).glob("*.safetensors"):
        path.unlink()
    load = {"text_encoder": load_text_model, "image_encoder": ClipVision}
    with pytest.raises(InputError, match=rf"{part}: no weights in it .*give the folder"):
        load.get(part, lambda folder: BackboneSource(folder).diffusion)(pipeline)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(pipeline: Path, part: str, value: float) -> None:
    (path,) = (pipeline / part).glob("*.safetensors")
    state = load_file(path)
    name = next(name for name in state if "encoder" in name or part == "unet")
    state[name].view(-1)[-1] = value
    rewrite(state, path)
    load = {"text_encoder": load_text_model, "image_encoder": ClipVision}
    with pytest.raises(InputError, match=r"the weights of .* are not finite \(first .*again"):
        load.get(part, lambda folder: BackboneSource(folder).diffusion)(pipeline)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_but_finite_weights_are_accepted(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    value = torch.tensor([limits.min, limits.max], dtype=dtype)
    require_finite([("a", value), ("count", torch.tensor(3)), ("none", torch.empty(0))], "x")


def test_an_encoder_of_another_architecture_is_refused(pipeline: Path) -> None:
    path = pipeline / "image_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": 3}))
    message = r"CLIP vision model is of another architecture \(.*layers\.2.* is missing\): give"
    with pytest.raises(InputError, match=message):
        ClipVision(pipeline)


def test_a_damaged_file_in_a_folder_is_named(pipeline: Path) -> None:
    path = pipeline / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"model.safetensors: not a complete safetensors file"):
        load_text_model(pipeline)


def test_shards_are_read_without_their_index(pipeline: Path) -> None:
    whole = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    folder = rewrite_in_layout(pipeline, "sharded") / "unet"
    next(folder.glob("*.index.json")).unlink()
    first, state = read_folder(folder)
    assert first.name == "diffusion_pytorch_model-00001-of-00003.safetensors"
    assert state.keys() == whole.keys()


WRITE = """
import sys
from pathlib import Path

import torch
from tests.support_models import tiny

from diffsight.hub import save, write_baselines
from diffsight.prompts.text import save_rows, save_table

out = Path(sys.argv[1])
out.mkdir()
rows = torch.arange(6.0).reshape(2, 3)
save_table(out / "table.safetensors", ["a", 'é"\\\\n'], rows, "a source")
save_rows(out / "rows.safetensors", rows, {key: "\\x7f\\x01" for key in "edcba"})
for name in ("folder", "file.safetensors"):
    info = {"datasets": ["x"], "license": "mit", "short_side": 64}
    path = save(tiny(), out / name, info={key: info[key] for key in {*info}})
    write_baselines(path, {name: rows.clone() for name in {"b", "a", "c"}})
"""


def test_equal_tensors_give_equal_files(tmp_path: Path) -> None:
    """The file does not depend on Python's hash seed or on the order of the metadata."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("0", "1")
    ]
    assert [process.wait() for process in running] == [0, 0]
    contents = []
    for folder in (tmp_path / "0", tmp_path / "1"):
        files = sorted(folder.rglob("*.safetensors"))
        contents.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert len(contents[0]) == 5
    assert contents[0] == contents[1]
    with safe_open(tmp_path / "0" / "rows.safetensors", framework="pt") as file:
        assert file.metadata() == dict.fromkeys("abcde", "\x7f\x01")
        assert file.get_tensor("rows").sum() == 15
