"""Text tables: features of names, lookup by name, and the adapter."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.label_maps import NYU_SCENES
from diffsight.prompts import TextTable
from diffsight.prompts.templates import TEMPLATES
from diffsight.prompts.text import TextAdapter, build_text_table
from diffsight.types import Inputs


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a diffusers folder with a random CLIP text tower of width 16."""
    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {chr(c): i for i, c in enumerate(range(33, 127))}
    vocabulary |= {f"{chr(c)}</w>": len(vocabulary) + i for i, c in enumerate(range(33, 127))}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder / "tokenizer")
    end = vocabulary["<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_the_80_templates_differ_and_each_contains_one_name() -> None:
    assert len(TEMPLATES["imagenet"]) == len(set(TEMPLATES["imagenet"])) == 80
    assert all(template.count("{}") == 1 for template in TEMPLATES["imagenet"])


def test_a_row_is_the_mean_of_the_features_of_the_end_tokens(clip: Path) -> None:
    rows = build_text_table(["bed_room", "x"], encoder=clip, max_length=60)
    model = CLIPTextModel.from_pretrained(clip / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip / "tokenizer")
    expected = []
    for template in TEMPLATES["imagenet"]:
        tokens = tokenizer([template.format("bed room")], return_tensors="pt")
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state[0]
        expected.append(hidden[-1])  # without padding, the last token is the end token
    torch.testing.assert_close(rows[0], torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)


def test_a_name_that_is_too_long_is_refused(clip: Path) -> None:
    with pytest.raises(InputError, match="tokens with its template, at most 20 fit"):
        build_text_table(["a very long name indeed"], encoder=clip, templates="single")


def test_a_folder_without_text_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CLIP text model"):
        build_text_table(["a"], encoder=tmp_path)


def test_the_command_writes_a_table_with_lookup_by_name(clip: Path, tmp_path: Path) -> None:
    names, out = tmp_path / "names.txt", tmp_path / "table.safetensors"
    names.write_text("kitchen\nbed_room\n\n")
    command = ["text-table", str(names), "--encoder", str(clip), "--out", str(out)]
    assert main([*command, "--max-length", "60"]) == 0
    rows = build_text_table(["kitchen", "bed_room"], encoder=clip, max_length=60)
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["names"]) == ["kitchen", "bed_room"]
    swapped = TextTable(["bed_room", "kitchen"], dim=16, weights=out)
    torch.testing.assert_close(swapped.rows, rows.flip(0))
    with pytest.raises(InputError, match="no row for attic"):
        TextTable(["attic"], dim=16, weights=out)
    with pytest.raises(InputError, match="vectors of 16 numbers, the backbone takes 768"):
        TextTable(["kitchen"], weights=out)


def test_the_command_accepts_the_name_of_a_list(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.safetensors"
    command = ["--encoder", str(clip), "--out", str(out), "--templates", "single"]
    assert main(["text-table", "nyu_scenes", *command, "--max-length", "60"]) == 0
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["names"]) == list(NYU_SCENES)
    assert TextTable("nyu_scenes", dim=16, weights=out).rows.shape == (27, 16)
    capsys.readouterr()
    assert main(["text-table", "nyu_scene", *command]) == 2
    error = capsys.readouterr().err
    assert "nyu_scene: no such file, and no list of class names is called" in error
    assert error.count("\n") == 1


def test_a_prompt_selects_its_row_and_no_prompt_the_mean_of_all_rows() -> None:
    table = TextTable(["a", "b", "c"], dim=4)
    with torch.no_grad():
        out = table(Inputs(torch.zeros(2, 3, 8, 8), ("b", None)))
        torch.testing.assert_close(out[0, 0], table.adapter(table.rows[1]))
        torch.testing.assert_close(out[1, 0], table.adapter(table.rows.mean(0)))
        torch.testing.assert_close(table(Inputs(torch.zeros(1, 3, 8, 8)))[0], out[1])
    assert out.shape == (2, 1, 4)
    with pytest.raises(InputError, match="unknown name 'd' in the text table: choose from a, b, c"):
        table(Inputs(torch.zeros(1, 3, 8, 8), ("d",)))


def test_an_adapter_is_initialised_close_to_the_identity() -> None:
    """Equation 5 of VPD: one gamma of 1e-4 per channel, and an MLP of 1,181,184 parameters."""
    adapter = TextAdapter(768)
    features = torch.randn(2, 768)
    change = adapter(features) - features
    torch.testing.assert_close(change, 1e-4 * adapter.mlp(features), rtol=1e-2, atol=1e-6)
    assert sum(p.numel() for p in adapter.mlp.parameters()) == 1_181_184
    assert adapter.gamma.shape == (768,)


def test_rows_are_trained_only_with_learn_rows() -> None:
    assert "rows" not in dict(TextTable(["a"], dim=4).named_parameters())
    assert "rows" in dict(TextTable(["a"], dim=4, learn_rows=True).named_parameters())


def test_repeated_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"repeated.*'a'"):
        TextTable(["a", "b", "a"], dim=4)


def test_text_features_of_the_packaged_tower_are_computed_in_32_bit(
    embedded: Path, tmp_path: Path
) -> None:
    """The packaged weights have 16 bits, and an unused projection."""
    rows = build_text_table(["bed", "x"], encoder="tiny", templates="single", max_length=40)
    model = CLIPTextModelWithProjection.from_pretrained(embedded / "text_encoder").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(embedded / "tokenizer")
    tokens = tokenizer([TEMPLATES["single"][0].format("bed")], return_tensors="pt")
    with torch.no_grad():
        output = model(**tokens)
    torch.testing.assert_close(rows[0], output.last_hidden_state[0, -1], rtol=1e-4, atol=1e-5)
    assert rows.dtype == torch.float32
    names, out = tmp_path / "names.txt", tmp_path / "table.safetensors"
    names.write_text("bed\nx\n")
    command = ["text-table", str(names), "--encoder", "tiny", "--out", str(out)]
    assert main([*command, "--max-length", "40", "--templates", "single"]) == 0
    torch.testing.assert_close(TextTable(["bed", "x"], dim=16, weights=out).rows, rows)


def test_a_length_beyond_the_limit_of_the_tower_is_refused(embedded: Path) -> None:
    with pytest.raises(InputError, match=r"max_length 65: .* tiny takes 64 tokens at most"):
        build_text_table(["a"], encoder="tiny", max_length=65)
