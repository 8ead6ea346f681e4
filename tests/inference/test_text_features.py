"""The cache of sentence features: each is computed once, and the size is limited."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.support import SMALL, images

from diffsight.backbones import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import ReferringDecoder
from diffsight.inference import Plan, Predictor
from diffsight.inference.text_features import TextFeatureCache
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.prompts import Sentences
from diffsight.tasks import Referring
from diffsight.types import Inputs

CPU = torch.device("cpu")
TEXTS = ("the red chair", "a table", "the red chair")


class Tower:
    """A text encoder that records its sentences."""

    def __init__(self) -> None:
        self.encoded: list[str | None] = []

    def __call__(self, sentence: str | None) -> torch.Tensor:
        self.encoded.append(sentence)
        return torch.full((1, 2, 4), float(len(sentence or "")))


def count_encoded(prompts: Sentences, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return a list that receives every sentence that the text encoder encodes."""
    encoded: list[str | None] = []
    features = prompts.features

    def recorded(sentences, device=None):
        encoded.extend(sentences)
        return features(sentences, device)

    monkeypatch.setattr(prompts, "features", recorded)
    return encoded


def model() -> DenseModel:
    torch.manual_seed(0)
    shape = {**SMALL, "unet": {**SMALL["unet"], "cross_attention_dim": 128}}
    method = partial(
        VPD,
        backbone=StableDiffusion(shape),
        prompts=Sentences(8, dim=128, encoder="tiny"),
        head=partial(ReferringDecoder, width=8),
    )
    return DenseModel(task=Referring(), method=method).eval()


def test_a_sentence_is_encoded_once_per_encoder() -> None:
    cache, tower, other = TextFeatureCache(), Tower(), Tower()
    rows = cache.get(tower, TEXTS, tower, CPU)
    assert rows[:, 0, 0].tolist() == [13, 7, 13]
    cache.get(tower, ("a table", "a sofa"), tower, CPU)
    cache.get(other, ("a table",), other, CPU)
    assert tower.encoded == ["the red chair", "a table", "a sofa"]
    assert other.encoded == ["a table"]


def test_a_full_cache_drops_the_least_recently_used_sentence() -> None:
    cache, tower = TextFeatureCache(max_bytes=2 * 2 * 4 * 4), Tower()
    for sentence in ("a", "bb", "a", "ccc", "a", "bb"):
        cache.get(tower, (sentence,), tower, CPU)
        assert sum(value.nbytes for _, value in cache._entries.values()) <= cache.max_bytes
    assert tower.encoded == ["a", "bb", "ccc", "bb"]


def test_cached_features_give_the_same_output_and_can_be_trained_on() -> None:
    prompts, cache = Sentences(8, dim=128, encoder="tiny"), TextFeatureCache()
    inputs = Inputs(images(3, 64, 64), TEXTS)
    with torch.inference_mode():
        alone = prompts(inputs)
        first = prompts(replace(inputs, text_features=cache))
    again = prompts(replace(inputs, text_features=cache))
    torch.testing.assert_close(first, alone)
    assert torch.equal(again, first)
    again.sum().backward()  # although the features were cached in inference mode
    assert prompts.adapter.gamma.grad is not None
    with torch.autocast("cpu", torch.bfloat16):  # features do not depend on mixed precision
        assert torch.equal(prompts.features(TEXTS[:1]), prompts.features(TEXTS[:1]).float())


def test_a_missing_sentence_is_refused() -> None:
    prompts = Sentences(8, dim=128, encoder="tiny")
    for texts in (None, ("a", None), ("a", " ")):
        inputs = Inputs(images(2, 64, 64), texts, text_features=TextFeatureCache())
        with pytest.raises(InputError, match="every image needs a sentence"):
            prompts(inputs)


def test_a_predictor_encodes_each_sentence_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = Predictor(model(), Plan(windows=2, scales=(1.0, 1.5)))
    encoded = count_encoded(predictor.model.method.prompts, monkeypatch)
    pixels = images(1, 64, 128)[0]
    for _ in range(2):
        predictor.one(pixels, "the red chair")
    assert encoded == ["the red chair"]
