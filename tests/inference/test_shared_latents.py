"""The cache of latents: models with the same frozen encoder encode an image once."""

from pathlib import Path

import pytest
import torch
from tests.support import images

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.inference.shared_latents import SharedLatents
from diffsight.methods import FeatureHead, FewShot
from diffsight.model import DenseModel
from diffsight.tasks import Segmentation


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of images of each call of the encoder."""
    counts: list[int] = []
    encode = StableDiffusion.encode

    def counted(self, image, *, draws=None):
        counts.append(len(image))
        return encode(self, image, draws=draws)

    monkeypatch.setattr(StableDiffusion, "encode", counted)
    return counts


def models(source: BackboneSource) -> list[DenseModel]:
    torch.manual_seed(0)
    methods = [cls.from_backbone(source) for cls in (FewShot, FeatureHead)]
    task = Segmentation(["a", "b", "c"])
    return [DenseModel(task=task, method=method).eval() for method in methods]


@pytest.mark.parametrize("plan", [Plan(), Plan(windows=2, flip=True, batch_size=3)])
def test_two_models_encode_an_image_once(plan, encoded, pipeline_folder: Path) -> None:
    pictures = list(images(2, 32, 48))
    first, second = models(BackboneSource(pipeline_folder))
    separate = [
        [Predictor(one, plan).one(p).confidence for one in (first, second)] for p in pictures
    ]
    assert sum(encoded) == 2 * 2 * plan.passes(32, 48)
    encoded.clear()
    latents = SharedLatents()
    predictors = [Predictor(one, plan, latents=latents) for one in (first, second)]
    together = [[one.one(picture).confidence for one in predictors] for picture in pictures]
    assert sum(encoded) == 2 * plan.passes(32, 48)
    for a, b in zip(separate, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_cached_latents_are_not_used_for_another_encoder_image_or_precision() -> None:
    latents, one, other = SharedLatents(), object(), object()
    image = images(1, 8, 8)
    made: list[int] = []

    def get(encoder: object, pixels: torch.Tensor) -> torch.Tensor:
        def compute(missing: torch.Tensor) -> torch.Tensor:
            made.append(len(made))
            return torch.full((1, 4, 1, 1), float(len(made)))

        return latents.get(encoder, pixels, compute)

    assert get(one, image) is get(one, image.clone())
    assert made == [0]
    get(other, image)
    get(one, image + 1e-3)
    get(one, image[..., :4])
    get(one, image.double())
    with torch.autocast("cpu", torch.bfloat16):
        get(one, image)
    assert len(made) == 6


def test_a_full_cache_drops_the_least_recently_used_latents() -> None:
    latents, encoder = SharedLatents(max_bytes=2 * 16), object()
    made: list[int] = []

    def get(number: int) -> None:
        def compute(missing: torch.Tensor) -> torch.Tensor:
            made.append(number)
            return torch.zeros(1, 4, 1, 1)

        latents.get(encoder, torch.full((1, 3, 2, 2), number / 10), compute)

    for number in (0, 1, 0, 2, 0, 1):
        get(number)
    assert made == [0, 1, 2, 1]


def test_an_image_in_several_batches_is_encoded_once() -> None:
    latents, encoder, pictures = SharedLatents(), object(), images(4, 8, 8)
    made: list[int] = []

    def get(*numbers: int) -> torch.Tensor:
        def compute(missing: torch.Tensor) -> torch.Tensor:
            made.append(len(missing))
            return missing.mean(dim=(2, 3))

        return latents.get(encoder, pictures[list(numbers)], compute)

    for numbers in ((0, 1), (1, 2, 1), (3,), (3, 0)):
        assert torch.equal(get(*numbers), pictures[list(numbers)].mean(dim=(2, 3)))
    assert made == [2, 1, 1]
