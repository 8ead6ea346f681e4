"""Trainings that start from the weights of a saved model."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.test_meta_prompts import build_backbone, build_depth, build_segmentation
from tests.support_inference import Brightness
from tests.support_models import tiny
from tests.training.conftest import Frozen, FrozenTiny, Measured, Stripes, short

from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.model import DenseModel
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Depth
from diffsight.training.begin import NAMED, begin_with
from diffsight.training.statistics import build_fitted


def test_matching_weights_are_loaded_and_the_others_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tiny(0, head_width=8)
    path = save(source, tmp_path / "first.safetensors")
    other = tiny(1, head_width=4)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with caplog.at_level(logging.INFO):
        begin_with(other, str(path))
    theirs, ours = source.state_dict(), other.state_dict()
    taken = [k for k, v in ours.items() if k.startswith("method.") and torch.equal(v, theirs[k])]
    changed = [k for k, v in ours.items() if not torch.equal(v, before[k])]
    assert taken
    assert all(name.startswith("method.") for name in changed)
    kept = [k for k in ours if k not in theirs or theirs[k].shape != ours[k].shape]
    assert kept
    assert all(torch.equal(ours[k], before[k]) for k in kept)
    assert "tensors; new: " in caplog.text


@pytest.mark.parametrize(
    ("build", "theirs", "ours", "unused"),
    [
        (build_segmentation, 3, 1, ("backbone.unet.conv_norm_out.weight", 6)),
        (build_segmentation, 3, 2, ("times.2", 1)),
        (build_segmentation, 1, 3, None),
        (build_depth, 3, 1, ("backbone.unet.conv_norm_out.weight", 16)),
    ],
)
def test_a_different_number_of_passes_gives_a_warning(
    build: Any,
    theirs: int,
    ours: int,
    unused: tuple[str, int] | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, model = (model_with_passes(build, passes) for passes in (theirs, ours))
    path = save(source, tmp_path / "first.safetensors")
    with caplog.at_level(logging.INFO):
        begin_with(model, str(path))
    (warning,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert f"saved with 'passes' = {theirs}, but the model to train has {ours}: only" in warning
    start, values = source.state_dict(), model.state_dict()
    for i in range(min(theirs, ours)):
        assert torch.equal(values[f"method.times.{i}"], start[f"method.times.{i}"])
    if unused is None:
        assert "; new: " in caplog.text
        assert "unused" not in caplog.text
        return
    first, count = unused
    assert f"; unused: {first}" in caplog.text
    assert count <= NAMED or f" and {count - NAMED} more" in caplog.text


def model_with_passes(build: Any, passes: int) -> DenseModel:
    """Return a Meta Prompts model with a number of passes; depth has one prompt set per pass."""
    options: dict[str, Any] = {"passes": passes, "backbone": build_backbone(conv_out=passes > 1)}
    if build is build_depth:
        options["prompts"] = [LearnedTokens(5, dim=24, adapter=True) for _ in range(passes)]
    return build(**options)


def test_a_different_number_of_passes_is_logged_if_passes_share_all_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = {"time": "fixed", "backbone": build_backbone(time_embedding=True)}
    path = save(build_segmentation(**fixed), tmp_path / "first.safetensors")
    fixed["backbone"] = build_backbone(time_embedding=True)
    begin_with(build_segmentation(passes=2, **fixed), str(path))
    assert "saved with 'passes' = 3, but the model to train has 2" in caplog.text


def test_equal_passes_and_other_methods_give_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(build_segmentation(), tmp_path / "first.safetensors")
    with caplog.at_level(logging.INFO):
        begin_with(build_segmentation(), str(path))
        assert "unused" not in caplog.text
        begin_with(tiny(), str(save(tiny(), tmp_path / "vpd.safetensors")))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_model_without_matching_weights_is_refused(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "first.safetensors")
    with pytest.raises(InputError, match="none of its weights has a name and shape of the model"):
        begin_with(DenseModel(task=Depth(), method=partial(Brightness)), str(path))


def frozen_tiny() -> DenseModel:
    return DenseModel(task=Depth(), method=partial(FrozenTiny, part=Frozen()))


def with_changed_part() -> DenseModel:
    model = frozen_tiny()
    with torch.no_grad():
        model.method.part.conv.weight.add_(1)
    model.method.part.source = None
    return model


def test_a_changed_frozen_part_is_saved_with_the_model_and_an_equal_one_is_not(
    tmp_path: Path,
) -> None:
    model, other = frozen_tiny(), with_changed_part()
    begin_with(model, str(save(frozen_tiny(), tmp_path / "equal.safetensors", embed=True)))
    assert model.method.part.source == "tiny"
    begin_with(model, str(save(other, tmp_path / "changed.safetensors")))
    assert model.method.part.source is None
    loaded = load(save(model, tmp_path / "new.safetensors"), trusted=["tests"])
    assert torch.equal(loaded.method.part.conv.weight, other.method.part.conv.weight)


def test_a_resumed_training_keeps_the_frozen_part_that_it_began_with(tmp_path: Path) -> None:
    other = with_changed_part()
    path, out = save(other, tmp_path / "other.safetensors"), tmp_path / "run"

    def train(steps: int, **options: Any) -> DenseModel:
        method = partial(FrozenTiny, part=Frozen())
        fitted = short(out, method=method, begin=str(path), steps=steps, **options)
        assert fitted is not None
        return fitted.model

    assert torch.equal(train(2).method.part.conv.weight, other.method.part.conv.weight)
    path.unlink()  # the checkpoint has the part
    resumed = train(4, resume=True)
    assert torch.equal(resumed.method.part.conv.weight, other.method.part.conv.weight)
    loaded = load(out / "model", trusted=["tests"])
    assert torch.equal(loaded.method.part.conv.weight, other.method.part.conv.weight)


def test_statistics_of_frozen_features_are_those_of_the_weights_that_are_begun_with(
    tmp_path: Path,
) -> None:
    source = frozen_tiny()
    path = save(with_changed_part(), tmp_path / "changed.safetensors")

    def build(begin: Path | None, length: int = 12) -> DenseModel:
        method, data = partial(Measured, part=Frozen()), Stripes(length=length)
        return build_fitted(Depth(), method, data, None if begin is None else str(begin))

    plain, begun = build(None), build(path)
    assert torch.equal(plain.method.part.conv.weight, source.method.part.conv.weight)
    assert not torch.equal(plain.method.mean, begun.method.mean)
    # a continued training keeps the statistics that its weights were trained with
    again = save(plain, tmp_path / "measured.safetensors")
    other = build(again, length=3)
    assert torch.equal(other.method.mean, plain.method.mean)
