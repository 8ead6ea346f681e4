"""A tiny world of 16 pictures, and parts of a model that are made from it."""

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


def small_chunks() -> None:
    """Chunks of 8 pictures: nobody wants to wait for 500."""
    pictures.CHUNK = frozen_outputs.CHUNK = 8


def few_steps(prompts: Any, **options: Any) -> torch.Tensor:
    """Paint with two steps of the solver: nobody looks at the pictures."""
    return generate(prompts, **options | {"steps": 2})


def stages(steps: int = 6):
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
    """Pictures that are rendered already."""
    before = pictures.CHUNK
    small_chunks()
    folder = tmp_path_factory.mktemp("cache")
    for split, count in (("train", 16), ("val", 8)):
        pictures.open_pictures(folder, split=split, count=count, size=SIZE)
    pictures.CHUNK = frozen_outputs.CHUNK = before
    return folder


@pytest.fixture
def context(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    """Without any trained part."""
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
    """With an untrained autoencoder and untrained towers."""
    torch.manual_seed(0)
    for stage in stages()[:2]:
        stage.export(stage.objective(context), context, context.model)
    return context
