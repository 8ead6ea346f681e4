"""Methods are chosen by name, with options after the name, and built on a backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import run, write_pictures

from diffsight.adaptation.candidates import SHORT_NAMES, candidates, method_class, split_specs
from diffsight.adaptation.options import AdaptOptions
from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.methods import AbstractMethod, FewShot
from diffsight.model import DenseModel
from diffsight.tasks import Depth


def depth(**options: Any) -> Depth:
    return Depth(**{"bins": 8, **options}).fitted(torch.linspace(0.5, 4, 200)[:, None])


@pytest.mark.parametrize(
    ("method", "kind"),
    [("linear_probe", "segmentation"), ("linear_probe", "depth"), ("vpd", "depth")],
)
def test_linear_probe_and_vpd_are_trained_saved_and_loaded(
    method: str, kind: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, kind, count=3)
    model = run(folder, backbone, kind, method=method, steps=2, mirror=False)
    assert isinstance(model.method, SHORT_NAMES[method])
    assert set(model.info["held_out"]) == {method, "constant", "mean map"}
    again = load(save(model, tmp_path / "mine.safetensors"))
    assert type(again.method) is type(model.method)


def test_several_methods_are_compared(backbone: BackboneSource, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, count=2)
    names = "linear_probe, feature_head"
    info = run(folder, backbone, method=names, steps=1, mirror=False).info
    assert set(info["held_out"]) == {"linear_probe", "feature_head", "constant", "mean map"}
    better = min(("linear_probe", "feature_head"), key=info["held_out"].__getitem__)
    assert info["chosen"] == better


def test_a_method_can_be_named_by_its_full_path() -> None:
    assert method_class("diffsight.methods.few_shot.FewShot") is FewShot


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fewshot", "unknown method 'fewshot': did you mean 'few_shot'?"),
        ("diffsight.methods.few_shot.FewShott", "there is no class .*did you mean 'FewShot'"),
        (
            "diffsight.heads.DeconvHead",
            "diffsight.heads.DeconvHead is not a method: give a subclass",
        ),
        ("os.path.join", "add --trust os"),
        ("tests.training.conftest.Tiny", "add --trust tests"),
    ],
)
def test_names_that_are_not_a_method_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        method_class(name)


def test_a_trusted_method_without_default_parts_is_refused(backbone: BackboneSource) -> None:
    name = "tests.training.conftest.Tiny"
    assert issubclass(method_class(name, trusted=("tests",)), AbstractMethod)
    with pytest.raises(InputError, match="Tiny has no default parts for few labelled images"):
        candidates([name], [backbone], depth, trusted=("tests",))


def test_settings_of_another_type_are_refused(
    backbone: BackboneSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FewShot, "few_shot_defaults", classmethod(lambda cls: {}))
    with pytest.raises(InputError, match="FewShot: few_shot_defaults must return FitSettings"):
        candidates(["few_shot"], [backbone], depth)


def test_options_are_passed_to_the_methods_that_accept_them(backbone: BackboneSource) -> None:
    taken: dict[str, Any] = {"codebook": 1}
    assert len(candidates(["feature_head", "few_shot"], [backbone], depth, options=taken)) == 2
    with pytest.raises(
        InputError, match=r"codebook is not an option of feature_head, linear_probe: l"
    ):
        candidates(["feature_head", "linear_probe"], [backbone], depth, options=taken)


def test_options_after_a_method_name_change_method_training_and_task(
    backbone: BackboneSource,
) -> None:
    (name,) = split_specs(
        "few_shot:maps.combine=slime:train_timesteps=[5, 50]:concept_std=0.5:codebook=3:alpha=2"
        ":batch_size=1:learning_rates.concepts=1e-2:clip_norms.concepts=2:bins=4"
    )
    (made,) = candidates([name], [backbone], depth)
    usual = FewShot.few_shot_defaults()
    assert made.settings.learning_rates == {**usual.learning_rates, "concepts": 0.01}
    assert made.settings.clip_norms == {"codebook": 1.0, "concepts": 2.0}
    assert (made.settings.batch_size, made.settings.max_steps) == (1, usual.max_steps)
    model = DenseModel(task=made.task, method=made.builder)
    assert isinstance(model.method, FewShot)
    assert model.method.train_timesteps == (5, 50)
    assert model.method.maps.combine == "slime"
    assert model.method.codebook is not None
    assert model.method.codebook.size == 3
    assert isinstance(made.task, Depth)
    assert (made.task.alpha, made.task.bins) == (2.0, 4)
    made.require_parameters(model.method)


def test_commas_in_brackets_do_not_separate_methods() -> None:
    text = "few_shot:train_timesteps=[5,100], vpd:attention_places=[up,mid],feature_head"
    assert split_specs(text) == [
        "few_shot:train_timesteps=[5,100]",
        "vpd:attention_places=[up,mid]",
        "feature_head",
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("few_shot:codebok=5", "few_shot has no option 'codebok': did you mean 'codebook'"),
        ("few_shot:batchsize=5", "did you mean 'batch_size'"),
        ("few_shot:backbone=5", "few_shot has no option 'backbone'"),
        ("vpd:alpha=5", "vpd has no option 'alpha'"),
        ("few_shot:codebook=many", "few_shot:codebook=many: codebook: "),
        ("few_shot:maps.combine", "'maps.combine' has no value"),
        ("few_shot:alpha=1:alpha=2", "repeats 'alpha'"),
        ("few_shot:train_timesteps=[5", "'\\[5' is not valid YAML"),
        ("few_shot:maps.combin=slime", "maps have no option combin: did you mean 'combine'"),
        ("few_shot:batch_size=0", "batch_size is out of range"),
        ("few_shot:learning_rates.concepts=0", "learning_rates 'concepts' is out of range"),
    ],
)
def test_bad_method_options_are_refused_in_one_line(
    spec: str, message: str, backbone: BackboneSource
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        candidates([spec], [backbone], depth)
    assert "\n" not in str(caught.value)


def test_an_unknown_parameter_prefix_is_refused_with_the_nearest(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, count=2)
    with pytest.raises(InputError, match="begins with 'concept': did you mean 'concepts'"):
        run(folder, backbone, method="few_shot:learning_rates.concept=1", steps=1)


def test_one_method_is_compared_under_several_options(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, count=2)
    names = "few_shot:codebook=0:max_steps=1:alpha=2, few_shot:codebook=1:alpha=2:bins=3"
    info = run(folder, backbone, "scalar", method=names, steps=2, mirror=False).info
    assert info["steps"] == dict(zip(names.split(", "), (1, 2), strict=True))
    assert set(info["held_out"]) == {*names.split(", "), "constant", "mean map"}
    assert info["alpha"] == 2


def test_hard_labels_use_one_codebook_vector_instead_of_three(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, "normals", count=2)
    options = {"steps": 1, "mirror": False, "bins": 8}
    soft, hard = (
        run(folder, backbone, "normals", method=f"few_shot:hard_labels={value}", **options)
        for value in ("false", "true")
    )
    assert soft.task.encode_label(torch.randn(1, 3, 2, 2)).ids.shape[1] == 3
    assert hard.task.encode_label(torch.randn(1, 3, 2, 2)).ids.shape[1] == 1
    again = load(save(hard, tmp_path / "hard.safetensors"))
    assert again.task.hard_labels
    with pytest.raises(InputError, match="kind depth are never mixtures: leave hard_labels out"):
        AdaptOptions(hard_labels=True).check_kind("depth")
