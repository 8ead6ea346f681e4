"""Fixtures for pretraining tests: 16 pictures, and networks with few channels."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffsight.inference.generate import generate
from diffsight.pretrain import frozen_outputs, pictures
from diffsight.pretrain.autoencoder import Autoencoder
from diffsight.pretrain.clip import ClipPair
from diffsight.pretrain.denoiser import Denoiser
from diffsight.pretrain.stage import StageContext
from diffsight.training.optim import AdamW

SIZE = 32
OPTIM = AdamW(lr=1e-3)


def use_small_chunks() -> None:
    """Render pictures in chunks of 8 instead of 500, which takes less time."""
    pictures.CHUNK = frozen_outputs.CHUNK = 8


def generate_in_two_steps(prompts: Any, **options: Any) -> torch.Tensor:
    """Generate images with two solver steps, which are enough for a test."""
    return generate(prompts, **options | {"steps": 2})


def make_stages(steps: int = 6):
    """Return the three stages of a pretraining with small networks."""
    return [
        Autoencoder(widths=(8, 8, 8), crop=16, optim=OPTIM, steps=steps, batch_size=4),
        ClipPair(width=16, layers=1, heads=2, image_size=SIZE, optim=OPTIM, steps=2, batch_size=4),
        Denoiser(
            widths=(8, 8, 16, 16),
            heads=(1, 1, 2, 2),
            size=SIZE,
            optim=OPTIM,
            steps=steps,
            batch_size=4,
        ),
    ]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder with rendered pictures."""
    before = pictures.CHUNK
    use_small_chunks()
    folder = tmp_path_factory.mktemp("cache")
    for split, count in (("train", 16), ("val", 8)):
        pictures.open_pictures(folder, split=split, count=count, size=SIZE)
    pictures.CHUNK = frozen_outputs.CHUNK = before
    return folder


@pytest.fixture
def context(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    """Return the context of a stage; its model folder is empty."""
    monkeypatch.setattr(pictures, "CHUNK", 8)
    monkeypatch.setattr(frozen_outputs, "CHUNK", 8)
    (tmp_path / "model").mkdir()
    train, held_out = (
        pictures.open_pictures(cache, split=split, count=count, size=SIZE)
        for split, count in (("train", 16), ("val", 8))
    )
    return StageContext(tmp_path / "model", tmp_path / "cache", train, held_out, seed=0)


@pytest.fixture
def full_context(context: StageContext) -> StageContext:
    """Return the context of a stage; its model has an untrained autoencoder and towers."""
    torch.manual_seed(0)
    for stage in make_stages()[:2]:
        stage.export(stage.objective(context), context, context.model)
    return context
