"""Properties of all prompts: declared sizes, long sentences, the empty prompt of a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffsight import assets
from diffsight.errors import InputError
from diffsight.prompts import (
    AbstractPrompt,
    Aggregated,
    ClassTokens,
    LearnedSentences,
    Sentences,
    TextTable,
    Unprompted,
)
from diffsight.types import Inputs

TOWER = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 10,
}
PROMPTS: dict[str, Callable[[], AbstractPrompt]] = {
    "aggregated": lambda: Aggregated(5, dim=24),
    "classes": lambda: ClassTokens(["a", "b"], dim=24),
    "trained sentences": lambda: LearnedSentences(6, architecture=TOWER),
    "pooled trained sentences": lambda: LearnedSentences(6, architecture=TOWER, pooled=True),
    "sentences": lambda: Sentences(6, dim=24),
    "a table": lambda: TextTable(["a", "b"], dim=24),
    "no prompt": lambda: Unprompted(7, dim=24),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_condition_has_the_declared_size(name: str) -> None:
    prompts = PROMPTS[name]().to("meta")
    text = prompts.placeholder()
    assert (text is not None) == prompts.requires_text
    image = torch.empty(2, 3, 8, 8, device="meta")
    texts = None if text is None else text.expand(2, *text.shape[1:])
    condition = prompts(Inputs(image, text=texts))
    assert condition.shape == (2, prompts.num_tokens, prompts.dim)
    assert condition.is_meta


@pytest.mark.parametrize("prompts", [Sentences(12, dim=128, encoder="tiny")])
def test_a_sentence_that_would_be_truncated_is_refused(prompts: AbstractPrompt) -> None:
    prompts.check("the red chair")
    with pytest.raises(InputError, match="the model reads 12: say it in fewer words"):
        prompts.check("a table " * 20)


def test_the_empty_prompt_of_a_folder_comes_from_its_text_tower(tmp_path: Path) -> None:
    prompt = Unprompted.from_folder(assets.find("tiny"), 128)
    expected = Unprompted(prompt.num_tokens, dim=128, weights="tiny")
    torch.testing.assert_close(prompt.rows, expected.rows)
    assert not prompt.rows.requires_grad
    without_tower = Unprompted.from_folder(tmp_path, 24)
    assert without_tower.num_tokens == 1
    assert not without_tower.rows.any()
