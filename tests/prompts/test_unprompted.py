"""Unprompted: text features of the empty sentence."""

import torch

from diffsight.prompts import Unprompted
from diffsight.prompts.text import load_text_encoder
from diffsight.types import Inputs


def test_every_image_gets_the_features_of_the_empty_sentence() -> None:
    prompts = Unprompted(9, dim=128, weights="tiny")
    tokenizer, tower = load_text_encoder("tiny")
    tokens = tokenizer([""], padding="max_length", max_length=9, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = tower(input_ids=tokens).last_hidden_state
    condition = prompts(Inputs(torch.rand(2, 3, 8, 8), ("a chair", None)))
    torch.testing.assert_close(condition, expected.expand(2, -1, -1))
    assert [p for p in prompts.parameters()] == []
    empty = Unprompted(9, dim=128)
    empty.load_state_dict(prompts.state_dict())
    torch.testing.assert_close(empty(Inputs(torch.rand(1, 3, 8, 8))), expected)
