"""Methods by their names, each with its default parts on a backbone."""

from pathlib import Path
from typing import Any

import pytest
from tests.support_adapt import pictures, run

from diffsight.adaptation.candidates import SHORT_NAMES, candidates, method_class
from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.methods import AbstractMethod, FewShot


@pytest.mark.parametrize(
    ("method", "kind"),
    [("linear_probe", "segmentation"), ("linear_probe", "depth"), ("vpd", "depth")],
)
def test_other_methods_learn_from_few_labels(
    method: str, kind: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = pictures(tmp_path, kind, count=3)
    model = run(folder, backbone, kind, method=method, steps=2, mirror=False)
    assert isinstance(model.method, SHORT_NAMES[method])
    assert set(model.info["held_out"]) == {method, "constant"}
    again = load(save(model, tmp_path / "mine.safetensors"))
    assert type(again.method) is type(model.method)


def test_several_methods_are_compared(backbone: BackboneSource, tmp_path: Path) -> None:
    folder = pictures(tmp_path, count=2)
    names = "linear_probe, feature_head"
    info = run(folder, backbone, method=names, steps=1, mirror=False).info
    assert set(info["held_out"]) == {"linear_probe", "feature_head", "constant"}
    better = min(("linear_probe", "feature_head"), key=info["held_out"].__getitem__)
    assert info["chosen"] == better


def test_a_method_is_found_by_its_full_path() -> None:
    assert method_class("diffsight.methods.few_shot.FewShot") is FewShot


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fewshot", "unknown method 'fewshot': did you mean 'few_shot'?"),
        ("diffsight.methods.few_shot.FewShott", "there is no class .*did you mean 'FewShot'"),
        ("diffsight.heads.DeconvHead", "diffsight.heads.DeconvHead is no method: give a subclass"),
        ("os.path.join", "add --trust os"),
        ("tests.training.conftest.Tiny", "add --trust tests"),
    ],
)
def test_names_that_are_no_methods(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        method_class(name)


def test_a_trusted_method_without_default_parts(backbone: BackboneSource) -> None:
    name = "tests.training.conftest.Tiny"
    assert issubclass(method_class(name, trusted=("tests",)), AbstractMethod)
    with pytest.raises(InputError, match="Tiny has no default parts for few labelled images"):
        candidates([name], backbone, trusted=("tests",))


def test_options_go_to_the_methods_that_take_them(backbone: BackboneSource) -> None:
    taken: dict[str, Any] = {"codebook": 1}
    assert len(candidates(["feature_head", "few_shot"], backbone, options=taken)) == 2
    with pytest.raises(InputError, match=r"codebook is no option of feature_head, linear_probe: l"):
        candidates(["feature_head", "linear_probe"], backbone, options=taken)
