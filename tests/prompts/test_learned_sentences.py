"""LearnedSentences and Aggregated: text features of a trained tower and of a data set."""

import pytest
import torch

from diffsight.errors import InputError
from diffsight.prompts import Aggregated, LearnedSentences
from diffsight.prompts.text import load_text_encoder
from diffsight.types import Inputs

IMAGE = torch.zeros(2, 3, 8, 8)


def test_the_text_tower_is_loaded_and_all_its_parameters_are_trainable() -> None:
    tokenizer, tower = load_text_encoder("tiny")
    architecture = {
        name: getattr(tower.config, name)
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
            *("num_attention_heads", "max_position_embeddings", "hidden_act"),
        )
    }
    prompts = LearnedSentences(12, architecture=architecture, tokenizer="tiny", weights="tiny")
    texts = ("the red chair", "a table " * 20)
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=12)
    ids = torch.tensor(tokens["input_ids"])
    with torch.no_grad():
        states = tower(input_ids=ids).last_hidden_state
        expected = states + prompts.adapter.gamma * prompts.adapter.mlp(states)
        torch.testing.assert_close(prompts(Inputs(IMAGE, texts)), expected)
        torch.testing.assert_close(prompts(Inputs(IMAGE, text=ids)), expected)
    assert all(p.requires_grad for p in prompts.parameters())
    with pytest.raises(InputError, match="tiny: its text tower is of another architecture"):
        LearnedSentences(12, architecture=architecture | {"num_hidden_layers": 1}, weights="tiny")


def test_a_missing_tokenizer_or_sentence_is_refused() -> None:
    small = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "max_position_embeddings": 12}
    with pytest.raises(InputError, match="no tokenizer: name one"):
        LearnedSentences(12, architecture=small)(Inputs(IMAGE, ("a", "b")))
    prompts = LearnedSentences(12, architecture=small, tokenizer="tiny")
    for sentences in (None, ("a", None), ("a", ""), ("a", " \t")):
        with pytest.raises(InputError, match="every image needs a sentence"):
            prompts(Inputs(IMAGE, sentences))


def test_aggregated_tokens_are_the_same_for_every_image() -> None:
    prompts = Aggregated(5, dim=8)
    with torch.no_grad():
        context = prompts(Inputs(IMAGE, ("ignored", None)))
        expected = prompts.rows + prompts.adapter.gamma * prompts.adapter.mlp(prompts.rows)
    assert context.shape == (2, 5, 8)
    torch.testing.assert_close(context[1], expected)
