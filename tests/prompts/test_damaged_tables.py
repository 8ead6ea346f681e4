"""Damaged text tables and aggregated prompts are refused with a message of one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffsight.errors import InputError
from diffsight.prompts import Aggregated, LearnedSentences, TextTable

NAMES = '["kitchen", "office"]'


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        ("[" * 10_000, torch.ones(2, 8), "nested too deeply"),
        ('["kitchen", 3]', torch.ones(2, 8), "its names are not a list of texts"),
        ('{"kitchen": 0}', torch.ones(2, 8), "its names are not a list of texts"),
        ("not JSON", torch.ones(2, 8), "Expecting value"),
        (NAMES, torch.ones(3, 8), r"2 names for rows of shape \(3, 8\)"),
        (NAMES, torch.ones(2), r"2 names for rows of shape \(2,\)"),
    ],
)
def test_damaged_text_tables_are_refused(
    tmp_path: Path, names: str, rows: torch.Tensor, message: str
) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"rows": rows}, path, {"names": names})
    with pytest.raises(InputError, match=rf"t\.safetensors: not a text table \({message}.*\): wri"):
        TextTable(["kitchen", "office"], dim=8, weights=path)


def test_truncated_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"rows": torch.ones(2, 8)}, path, {"names": NAMES})
    whole = path.read_bytes()
    for length in (0, 7, 50, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a text table"):
            TextTable(["kitchen", "office"], dim=8, weights=path)
        with pytest.raises(InputError, match="no aggregated prompt"):
            Aggregated(2, dim=8, weights=path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 2**40}, "hidden_size is out of range"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is out of range"),
        ({"hidden_size": 10, "num_attention_heads": 3}, "architecture: no CLIP text model"),
        ({"hidden_act": "none"}, "architecture: no CLIP text model"),
    ],
)
def test_invalid_architectures_of_text_towers_are_refused(sizes: dict, message: str) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with pytest.raises(InputError, match=message):
        LearnedSentences(8, architecture={**small, "num_attention_heads": 1, **sizes})
