"""ClassTokens: one token per class for every image."""

import pytest
import torch

from diffsight.errors import InputError
from diffsight.prompts import ClassTokens
from diffsight.prompts.text import save_table
from diffsight.types import Inputs


def test_every_image_gets_the_tokens_of_all_classes(tmp_path) -> None:
    rows = torch.randn(3, 4)
    save_table(tmp_path / "table.safetensors", ["cat", "wall", "door"], rows, "test")
    tokens = ClassTokens(["wall", "door"], dim=4, weights=tmp_path / "table.safetensors")
    assert tokens.num_tokens == 2
    with torch.no_grad():
        context = tokens(Inputs(torch.zeros(2, 3, 8, 8), ("ignored", None)))
        expected = rows[1:] + tokens.adapter.gamma * tokens.adapter.mlp(rows[1:])
    assert context.shape == (2, 2, 4)
    torch.testing.assert_close(context[0], expected)
    assert torch.equal(context[0], context[1])


def test_rows_are_trained_only_with_learn_rows() -> None:
    assert not ClassTokens(["a", "b"], dim=4).rows.requires_grad
    assert ClassTokens(["a", "b"], dim=4, learn_rows=True).rows.requires_grad


def test_repeated_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"different names; repeated:.*'a'"):
        ClassTokens(["a", "b", "a"])
