"""Sentences: text features of a frozen tower."""

import pytest
import torch

from diffsight.errors import InputError
from diffsight.prompts import Sentences
from diffsight.prompts.text import load_text_encoder
from diffsight.types import Inputs

IMAGE = torch.zeros(2, 3, 8, 8)


def test_features_are_computed_by_the_tower_or_taken_from_the_inputs() -> None:
    """The expected features are padded with the tower's padding token, or truncated."""
    tokenizer, tower = load_text_encoder("tiny")
    texts = ("the red chair", "a table " * 20)
    prompts = Sentences(12, dim=tower.config.hidden_size, encoder="tiny")
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=12)
    with torch.no_grad():
        states = tower(input_ids=torch.tensor(tokens["input_ids"])).last_hidden_state
        expected = states + prompts.adapter.gamma * prompts.adapter.mlp(states)
        condition = prompts(Inputs(IMAGE, texts))
        torch.testing.assert_close(condition, expected)
        inputs = Inputs(IMAGE, text=prompts.features(texts))
        assert torch.equal(prompts(inputs), condition)
    assert all(name.startswith("adapter.") for name in prompts.state_dict())


def test_a_missing_sentence_or_encoder_is_refused() -> None:
    prompts = Sentences(12, dim=32, encoder="tiny")
    for sentences in (None, ("a", None), ("a", ""), ("a", " \t")):
        with pytest.raises(InputError, match="every image needs a sentence"):
            prompts(Inputs(IMAGE, sentences))
    with pytest.raises(InputError, match="no text encoder: set encoder"):
        Sentences(12, dim=32)(Inputs(IMAGE, ("a", "b")))
    with pytest.raises(InputError, match=r"\(2, 3, 32\) text features for 2 images: .* 12 tokens"):
        prompts(Inputs(IMAGE, text=torch.zeros(2, 3, 32)))


def test_the_text_tower_is_moved_to_the_device_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tower is no submodule, so ``Module.to`` does not move it."""
    prompts = Sentences(12, dim=128, encoder="tiny")
    prompts.features(["a table"])
    tower = prompts._tower[0]
    assert not any(p.requires_grad for p in tower.parameters())
    meta = prompts.features(["a table"], torch.device("meta"))
    assert meta.is_meta
    assert all(p.is_meta for p in tower.parameters())
