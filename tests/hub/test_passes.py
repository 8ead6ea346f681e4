"""Meta Prompts models whose configuration and weights have different numbers of passes."""

from pathlib import Path
from typing import Any

import pytest
from tests.methods.test_meta_prompts import build_backbone, build_depth, build_segmentation
from tests.support_models import edit_config

from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.model import DenseModel


def set_passes(config: dict[str, Any], passes: int) -> None:
    """Change the number of passes, and the arguments that depend on it."""
    arguments = config["method"]["init_args"]
    arguments["passes"] = passes
    sets = arguments["prompts"]
    arguments["prompts"] = [sets[0]] * (passes if len(sets) > 1 else 1)
    arguments["backbone"]["init_args"]["conv_out"] = passes > 1


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
@pytest.mark.parametrize(
    ("model", "trained", "given"),
    [
        (build_segmentation, 3, 2),
        (build_segmentation, 3, 5),
        (build_segmentation, 3, 1),
        (build_depth, 3, 2),
        (build_depth, 3, 4),
    ],
)
def test_the_error_names_both_numbers_of_passes(
    model: Any, trained: int, given: int, name: str, tmp_path: Path
) -> None:
    path = save(model(), tmp_path / name)
    assert load(path).method.passes == trained
    edit_config(path, lambda config: set_passes(config, given))
    assert_refused(path, trained, given)


def test_both_numbers_are_named_also_if_the_constructor_would_fail(tmp_path: Path) -> None:
    """Such as three prompt sets for two passes, or three passes without an output head."""
    one = build_segmentation(passes=1, backbone=build_backbone(conv_out=False))
    for model, trained, given in ((build_depth(), 3, 2), (one, 1, 3)):
        path = save(model, tmp_path / f"{trained}")
        edit_config(path, lambda config, n=given: config["method"]["init_args"].update(passes=n))
        assert_refused(path, trained, given)


def test_the_number_of_passes_can_be_changed_if_passes_share_all_weights(tmp_path: Path) -> None:
    """With the pretrained time embedding and one set of prompts, passes share all weights."""
    backbone = build_backbone(time_embedding=True)
    path = save(build_segmentation(time="fixed", backbone=backbone), tmp_path / "model")
    edit_config(path, lambda config: config["method"]["init_args"].update(passes=2))
    assert load(path).method.passes == 2


def assert_refused(path: Path, trained: int, given: int) -> None:
    with pytest.raises(InputError) as refusal:
        load(path)
    message = str(refusal.value)
    numbers = f"'passes' is {given}, but the weights are of a model whose 'passes' is {trained}"
    assert numbers in message
    assert message.startswith(f"{path}")
    assert "\n" not in message


def test_other_damage_is_still_reported(tmp_path: Path) -> None:
    model: DenseModel = build_segmentation()
    path = save(model, tmp_path / "model")
    edit_config(path, lambda config: config["method"]["init_args"].update(passes="many"))
    with pytest.raises(InputError, match="passes"):
        load(path)
    edit_config(path, lambda config: config["method"].update(init_args=None))
    with pytest.raises(InputError, match=r"config\.json"):
        load(path)
    (path / "model.safetensors").unlink()
    edit_config(path, lambda config: config["method"].update(class_path=3))
    with pytest.raises(InputError, match=r"config\.json"):
        load(path)
