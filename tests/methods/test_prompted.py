"""The base class of VPD and EVP: sentences that are refused."""

from functools import partial

import pytest
from tests.support import SMALL

from diffsight.backbones import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import ReferringDecoder
from diffsight.methods import EVP, VPD
from diffsight.outputs import OutputSpec
from diffsight.prompts import Sentences


@pytest.mark.parametrize("cls", [VPD, EVP])
def test_a_sentence_that_is_too_long_is_refused(cls: type[VPD] | type[EVP]) -> None:
    method = cls(
        output=OutputSpec("classes", 2),
        backbone=StableDiffusion(SMALL),
        prompts=Sentences(12, dim=24, encoder="tiny"),
        head=partial(ReferringDecoder, width=8),
    )
    method.check_prompt("the red chair")
    with pytest.raises(InputError, match="the model reads 12: say it in fewer words"):
        method.check_prompt("a table " * 20)
