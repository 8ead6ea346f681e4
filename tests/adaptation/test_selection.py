"""Methods are compared on held-out images; the better one is trained on all of them."""

import functools
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_adapt import assert_same_weights, run, write_pictures
from tests.training.conftest import Stripes, Tiny

from diffsight.adaptation.adapt import adapt
from diffsight.adaptation.candidates import Candidate, MethodSpec
from diffsight.adaptation.options import AdaptOptions
from diffsight.adaptation.selection import Progress, Selection, select
from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.concept_maps import ConceptRequest
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.methods import FeatureHead, FewShot
from diffsight.methods.base import FitSettings, mean_frequencies
from diffsight.methods.feature_head import WEIGHTS
from diffsight.model import DenseModel
from diffsight.tasks import Depth, Normals
from diffsight.training import resumable
from diffsight.training.interrupts import TornStepError
from diffsight.training.loop import encode, measure_variants, split_folds
from diffsight.training.state import AdaptState


def test_the_plan_is_reported_before_any_image_is_encoded(
    pipeline_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    seen: list[Progress] = []
    encoded: list[bool] = []
    source = BackboneSource(pipeline_folder)
    source.diffusion.vae.register_forward_hook(lambda *_: encoded.append(True))

    def announce(plan: Any) -> None:
        seen.clear()
        assert not encoded
        assert len(plan.folder) == 2
        assert {pair.source for pair in plan.candidates} == {source}

    options = {"announce": announce, "advance": seen.append, "mirror": False}
    folder = write_pictures(tmp_path, count=2)
    run(folder, source, steps=2, **options)
    assert "5 trainings: feature_head 2 steps each, few_shot 2 steps each" in caplog.messages
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == pytest.approx(1 / 10)
    assert fractions[-1] == pytest.approx(1)
    encoded.clear()
    model = run(folder, source, method="feature_head", minutes=0.01, **options)
    assert any(m.startswith("2 trainings, about ") for m in caplog.messages)
    assert seen[-1].fraction == pytest.approx(1)
    assert 20 <= model.info["steps"]["feature_head"] <= 200
    caplog.clear()
    encoded.clear()
    run(folder, source, method="feature_head", steps=50, **options)
    assert any(m.startswith("2 trainings, about ") for m in caplog.messages)


@pytest.mark.parametrize("cheaper", [1e-4, 1.0])
def test_progress_reaches_one_at_the_last_step(
    cheaper: float,
    backbone: BackboneSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also if the cheaper method is chosen, or if a single image allows no comparison."""
    caplog.set_level("INFO")
    monkeypatch.setattr(
        "diffsight.adaptation.selection.seconds_per_step",
        lambda model, *_: 1.0 if isinstance(model.method, FewShot) else cheaper,
    )
    monkeypatch.setattr("diffsight.adaptation.progress.MIN_STEPS", 2)
    settings = FitSettings({"": 1e-3}, batch_size=1, max_steps=2)
    for method in (FewShot, FeatureHead):
        monkeypatch.setattr(method, "few_shot_defaults", lambda: settings)
    seen: list[Progress] = []
    options = {"advance": seen.append, "mirror": False}
    folder = write_pictures(tmp_path, count=2)
    run(folder, backbone, method="few_shot,feature_head", **options)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    run(folder, backbone, shots=1, **options)
    assert seen[-1].fraction == pytest.approx(1)
    assert caplog.messages[-1].startswith("1 training, about ")
    assert "few_shot" not in caplog.messages[-1]


@pytest.mark.parametrize("fits", [64, None])
def test_too_little_memory_names_the_size_that_fits(
    fits: int | None, backbone: BackboneSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = Selection._encode, []

    def encode_within(selection: Selection, candidate: Candidate) -> None:
        tried.append(selection.short_side)
        if fits is None or tried[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(selection, candidate)

    monkeypatch.setattr(Selection, "_encode", encode_within)
    advice = "--short-side 64 fits" if fits else "it takes a machine with more"
    options = {"method": "feature_head", "short_side": 128}
    with pytest.raises(InputError, match=rf"cpu has not enough memory .* 128 px: {advice}$"):
        run(write_pictures(tmp_path, count=2), backbone, **options)
    assert tried == ([128, 64] if fits else [128, 64, 32])


def test_without_enough_memory_the_batch_is_halved_and_then_activations_are_recomputed(
    backbone: BackboneSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    real = resumable.train
    seen: list[tuple[int, bool]] = []

    def train_within(step: Any, batches: Any, **options: Any) -> None:
        first = next(iter(batches))
        recomputes = any(
            getattr(m, "gradient_checkpointing", False) for m in step.trained.modules()
        )
        seen.append((len(first.inputs.image), recomputes))
        if seen[-1] != (1, True):
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(step, itertools.chain([first], batches), **options)

    monkeypatch.setattr("diffsight.training.resumable.train", train_within)
    folder = write_pictures(tmp_path, sizes=((64, 64),), count=6)
    model = run(folder, backbone, method="vpd:batch_size=4", steps=1, mirror=False)
    assert seen[:4] == [(4, False), (2, False), (1, False), (1, True)]
    assert model.info["chosen"] == "vpd:batch_size=4"
    line = "not enough memory, trying again with smaller steps: vpd:batch_size=4 2 image(s) a step"
    assert line in caplog.messages


def test_a_method_with_score_nan_is_never_chosen(
    backbone: BackboneSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(model: DenseModel, held: Any, *_: Any) -> list[torch.Tensor]:
        value = 1.0 if isinstance(model.method, FewShot) else math.nan
        row = torch.tensor([[value, 1.0]] * len(model.method.variants()), dtype=torch.float64)
        return [row] * len(held)

    monkeypatch.setattr("diffsight.adaptation.selection.measure_variants", measured)
    info = run(write_pictures(tmp_path, count=2), backbone, steps=1, mirror=False).info
    assert math.isnan(info["held_out"]["feature_head"])
    assert info["chosen"] == "few_shot"


def test_a_diverged_training_leaves_no_file(
    backbone: BackboneSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(step: Any, *_: Any, **__: Any) -> None:
        with torch.no_grad():
            next(p for p in step.trained.parameters() if p.requires_grad).fill_(torch.nan)

    monkeypatch.setattr("diffsight.training.resumable.train", diverge)
    state = tmp_path / "state"
    options = {"method": "feature_head", "steps": 1, "state": state}
    with pytest.raises(InputError, match="feature_head: the training diverged, its weights are no"):
        run(write_pictures(tmp_path, count=2), backbone, **options)
    assert not state.exists()


def test_copies_of_an_image_are_in_the_same_fold() -> None:
    folds = list(split_folds(["a", "a", "b", "c", "c", "d"], 3))
    assert [held_out for _, held_out in folds] == [[0, 1, 5], [2], [3, 4]]
    assert all(sorted(train + held_out) == list(range(6)) for train, held_out in folds)


@pytest.mark.parametrize(
    ("held_out_slope", "chosen"), [(4.0, "position_weight"), (-4.0, "prior_weight")]
)
def test_position_and_prior_weights_have_the_best_held_out_score(
    backbone: BackboneSource, tmp_path: Path, held_out_slope: float, chosen: str
) -> None:
    """The images are noise, so that only position and prior can help.

    The label is a slope. If the held-out slope has the opposite sign, only the prior helps.
    """
    rng = np.random.default_rng(0)
    folders = (tmp_path / "train", tmp_path / "held_out")
    for folder, slope in zip(folders, (4.0, held_out_slope), strict=True):
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for i, offset in enumerate((-0.6, 0.6, -0.2, 0.2)):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{i}.png")
            label = np.tile(np.linspace(-slope / 2, slope / 2, 64), (64, 1)) + offset
            np.save(folder / "labels" / f"{i}.npy", label.astype(np.float32))
    train_on, held_out = ((folder / "images", folder / "labels") for folder in folders)
    options = {"kind": "scalar", "method": "feature_head", "steps": 100, "mirror": False}
    model = adapt(*train_on, backbone=backbone, validation=held_out, **options)
    method, task = model.method, model.task
    others = read_labelled_folder(*held_out, LabelFormat("scalar"))
    encoded = [encode(model, sample, 64, mirror=False) for sample in others.samples]
    targets = [views[0].target for views in encoded]
    sums = torch.stack(measure_variants(model, encoded, targets)).sum(dim=0)
    scores = [task.score(row) for row in sums]
    best = dict(zip(("position_weight", "prior_weight"), WEIGHTS[np.argmin(scores)], strict=True))
    assert model.info["variant"] == best
    assert (method.position_weight, method.prior_weight) == tuple(best.values())
    assert best[chosen] > 0
    assert model.info["held_out"]["feature_head"] == pytest.approx(min(scores), rel=1e-6)
    again = load(save(model, tmp_path / "mine.safetensors", embed=False)).method
    assert (again.position_weight, again.prior_weight) == tuple(best.values())
    assert torch.equal(again.prior, method.prior)
    assert float(again.prior.std()) > 0


def test_class_frequencies_are_those_of_labelled_pixels() -> None:
    valid = torch.tensor([[[True, True, True, False]]])
    ids = torch.tensor([[[[0, 0, 1, 3]], [[1, 2, 2, 3]]]])  # each pixel mixes two classes
    weights = torch.tensor([0.75, 0.25]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4)
    found = mean_frequencies([(ids, weights, valid)] * 2, 4)
    torch.testing.assert_close(found, torch.tensor([1.5, 1.0, 0.5, 0.0]) / 3)


def test_unknown_values_of_combine_and_spacing_are_refused() -> None:
    """The type checks of the tests come first in a constructor, so it is not called here."""
    with pytest.raises(InputError, match="unknown combine 'Slime': give per_layer or slime"):
        ConceptRequest.__post_init__(SimpleNamespace(combine="Slime"))
    options = SimpleNamespace(**vars(AdaptOptions()) | {"spacing": "cubic"})
    with pytest.raises(
        InputError, match=r"unknown spacing 'cubic': choose log, log1p, linear, quantile"
    ):
        AdaptOptions.__post_init__(options)


def test_a_saved_few_shot_model_of_fifty_concepts_takes_less_than_300_kb(
    backbone: BackboneSource,
) -> None:
    """Normals on Stable Diffusion 2.1: 60,380 trained numbers, as in the paper, and the codec."""
    directions = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    task = Normals(bins=50).fitted(torch.nn.functional.normalize(directions, dim=1))
    vision = backbone.clip()
    with torch.device("meta"):
        diffusion = StableDiffusion("sd21")
    method = FewShot(output=task.outputs[0], backbone=diffusion, codebook=10, vision=vision)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    wide = 10 * (768 - vision.width)  # the CLIP of the paper has more channels
    assert trained + wide == 60_380
    model = DenseModel(task=task, method=lambda output: method)
    frozen = tuple(f"method.{path}." for path in method.frozen())
    kept = [v for name, v in model.state_dict().items() if not name.startswith(frozen)]
    size = 4 * wide + sum(value.numel() * value.element_size() for value in kept)
    assert 60_380 * 4 < size < 290_000


@pytest.mark.parametrize("torn", [False, True])
def test_resuming_a_method_with_batch_norm_and_dropout_gives_the_same_model(
    torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saved state includes running means and the state of the random number generator."""
    monkeypatch.setattr("diffsight.training.state.SAVE_SECONDS", 0.0)
    samples = [Stripes()[i] for i in range(4)]
    settings = FitSettings({"": 1e-2}, batch_size=3, max_steps=20, clip_norms={"": 0.5})
    task = Depth(max_depth_m=None)
    tiny = Candidate(
        "tiny",
        functools.partial(Tiny),
        settings,
        task,
        MethodSpec(Tiny),
        BackboneSource("tiny"),
        short_side=8,
    )
    path = tmp_path / "state"

    def trained(**options: Any) -> DenseModel:
        torch.manual_seed(99)
        return select(samples, task, [tiny], steps=12, **options)

    def stop(progress: Progress) -> None:
        if progress.run == "tiny, all images" and progress.step == 7:
            raise TornStepError if torn else KeyboardInterrupt

    whole = trained()
    trained(state=AdaptState.open(path, {}, resume=False), advance=stop)
    seen: list[Progress] = []
    again = trained(state=AdaptState.open(path, {}, resume=True), advance=seen.append)
    assert (seen[0].run, seen[0].step) == ("tiny, all images", 8)
    assert_same_weights(again, whole)
    assert float(whole.method.norm.num_batches_tracked) == 12
    assert again.info == whole.info
