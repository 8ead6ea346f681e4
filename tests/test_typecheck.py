"""The checks of types and shapes, which all tests rely on, are active."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffsight.outputs import OutputSpec
from diffsight.prompts import LearnedTokens
from diffsight.tasks.prediction import draw_rgb
from diffsight.types import Draws


@pytest.mark.parametrize(
    "call",
    [
        lambda: draw_rgb(torch.zeros(3, 4, 6), torch.ones(5, 6, dtype=torch.bool)),
        lambda: draw_rgb(torch.zeros(3, 4, 6), torch.ones(4, 6)),
        lambda: LearnedTokens(num_tokens=2, dim=4).forward(None),
        lambda: Draws(3),
        lambda: OutputSpec(kind=3, channels=1),
    ],
    ids=["sizes differ", "no mask", "size of an argument", "dataclass", "literal"],
)
def test_a_call_with_a_wrong_type_or_size_is_an_error(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        call()
