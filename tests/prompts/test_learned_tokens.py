"""LearnedTokens: initial values and adapter."""

import torch
from tests.support import images

from diffsight.prompts import LearnedTokens
from diffsight.types import Inputs


def test_tokens_are_standard_normal_and_the_same_for_all_images() -> None:
    torch.manual_seed(0)
    tokens = LearnedTokens(150, dim=64)
    rows = tokens.rows.detach()
    assert abs(float(rows.mean())) < 0.05
    assert abs(float(rows.std()) - 1) < 0.05
    condition = tokens(Inputs(images(3, 8, 8)))
    assert condition.shape == (3, 150, 64)
    assert torch.equal(condition[2], tokens.rows)


def test_the_adapter_has_no_residual() -> None:
    torch.manual_seed(0)
    tokens = LearnedTokens(5, dim=8, adapter=True)
    first, second = tokens.adapter[0], tokens.adapter[2]
    hidden = torch.nn.functional.gelu(first(tokens.rows))
    torch.testing.assert_close(tokens(Inputs(images(1, 8, 8)))[0], second(hidden))
    # the released code treats a batch of as many images as tokens differently
    assert tokens(Inputs(images(5, 8, 8))).shape == (5, 5, 8)
