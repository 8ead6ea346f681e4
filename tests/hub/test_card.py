"""The model card is valid for huggingface_hub, which reads its metadata back unchanged."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from tests.support_models import RESULT, edit_config, tiny

from diffsight.hub import read_config, record, save
from diffsight.hub.card import PIPELINE_TAGS, format_card

# without quotes, each of these breaks YAML or is read with another type
SPECIAL_NAMES = [
    *("cat: dog", "# comment", "[list]", "{map}", "- item", "*alias", "&anchor", "!tag", "%d", "@"),
    *("'", '"', "yes", "null", "1.5", "2020-01-01", "a\n---\nb", "tab\there", "{{ jinja }}"),
    *("é 猫", "back\\slash", "x | y", " padded ", "\x07"),
]


@pytest.fixture
def config(saved: Path) -> dict[str, Any]:
    """Return the configuration of a saved model, which a test may change."""
    return deepcopy(read_config(saved))


def test_the_card_has_the_metadata_and_the_text(tmp_path: Path) -> None:
    info = {"license": "mit", "datasets": ["rooms"], "results": [RESULT], "training": {"steps": 7}}
    card = ModelCard.load(save(tiny(), tmp_path / "m", info=info) / "README.md")
    data = card.data.to_dict()
    assert data.pop("model-index")
    assert data == {
        "license": "mit",
        "library_name": "diffsight",
        "pipeline_tag": "depth-estimation",
        "datasets": ["rooms"],
        "metrics": ["d1", "rmse"],
        "tags": ["diffsight", "VPD"],
    }
    assert card.text.startswith("\n# VPD for Depth\n\nMade with diffsight ")
    assert "| **this model** | 0.5123 | 0.9 |\n| mean map | 0.7 | 0.5 |" in card.text
    assert "rooms-v1 on rooms-test, plan: own size" in card.text
    assert "* steps: 7" in card.text


def test_evaluations_become_evaluation_results_of_the_hub(folder: Path) -> None:
    record(folder, RESULT)
    record(folder, RESULT | {"data": None, "metrics": {"rmse": 0.25}})
    data = ModelCard.load(folder / "README.md").data
    assert data.model_name == "VPD for Depth"
    common = {
        "task_type": "depth-estimation",
        "task_name": "Depth",
        "metric_config": "rooms-v1",
        "metric_args": {"plan": RESULT["plan"]},
    }
    rows = (("rooms-test", "rmse", 0.51234), ("rooms-test", "d1", 0.9), ("rooms-v1", "rmse", 0.25))
    assert data.eval_results == [
        EvalResult(
            dataset_type=name, dataset_name=name, metric_type=metric, metric_value=value, **common
        )
        for name, metric, value in rows
    ]


def test_a_card_without_evaluations_says_how_to_evaluate(saved: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    assert card.data.to_dict().keys() == {"license", "library_name", "pipeline_tag", "tags"}
    assert card.data.license == "other"
    assert "`diffsight evaluate --model . --protocol ID`" in card.text


@pytest.mark.parametrize("name", SPECIAL_NAMES)
def test_special_characters_in_names_do_not_break_the_metadata(
    config: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Metrics have names of classes, such as ``IoU cat: dog, %``."""
    config["method"]["class_path"] = f"my_package.{name.replace('.', '_')}"
    metrics = {name: 0.5, f"IoU {name}, %": 40.0}
    config["info"] = {
        "license": name,
        "datasets": [name],
        "results": [{"protocol": {"name": name}, "plan": name, "data": name, "metrics": metrics}],
    }
    text = format_card(config)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == name
    assert card.data.datasets == [name]
    assert card.data.tags == ["diffsight", name.replace(".", "_")]
    assert card.data.metrics == sorted(metrics)
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == metrics
    assert {(r.dataset_name, r.metric_config) for r in card.data.eval_results} == {(name, name)}
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert str(card) == text


def test_a_vertical_bar_in_a_name_does_not_add_a_table_column(config: dict[str, Any]) -> None:
    config["info"] = {"held_out": {"a | b": 1.0, "c\nd": 2.0}, "metric": "mIoU | %"}
    rows = format_card(config).partition("## Held-out images\n\n")[2].splitlines()[:4]
    assert rows == ["|  | mIoU \\| % |", "| --- | --- |", "| a \\| b | 1 |", "| c d | 2 |"]


def test_base_models_are_those_of_the_hub(folder: Path) -> None:
    edit_config(
        folder, lambda c: c["info"].update(base_weights=["someone/model", "folder", "/a/path"])
    )
    record(folder, RESULT)
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == ["someone/model"]
    assert "trained from someone/model, folder, /a/path, whose licence applies too" in card.text


def test_tasks_have_the_names_that_the_hub_gives_them(config: dict[str, Any]) -> None:
    for task, tag in {**PIPELINE_TAGS, "Normals": None}.items():
        config["task"]["class_path"] = f"diffsight.tasks.{task}"
        config["info"] = {"results": [RESULT]}
        data = ModelCard(format_card(config)).data
        assert data.pipeline_tag == tag
        assert {result.task_type for result in data.eval_results} == {tag or "other"}
        assert {result.task_name for result in data.eval_results} == {task}


def test_the_card_is_plain_yaml_between_two_lines_of_dashes(saved: Path) -> None:
    """Programs that read cards without huggingface_hub rely on this format."""
    before, metadata, _ = (saved / "README.md").read_text().split("---\n", 2)
    assert before == ""
    assert yaml.safe_load(metadata)["library_name"] == "diffsight"
