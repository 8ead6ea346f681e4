import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_datasets import write_captions
from tests.support_inference import Blur, Brightness, model
from torch import nn

from diffsight import protocols
from diffsight.backbones import BackboneSource
from diffsight.datasets import Captioned
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.hub import read_config, record, save
from diffsight.inference import Plan, Predictor
from diffsight.inference.evaluate import FirstSamples, evaluate, resolve_protocol
from diffsight.methods import FeatureHead
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.outputs import Classes, Output, OutputSpec
from diffsight.tasks import Referring, Segmentation
from diffsight.types import Draws, Inputs, Target


class Grey(AbstractDataset):
    """Uniform grey images of several sizes; the depth is factor * (1 + brightness)."""

    def __init__(self, factor: float = 1.0, count: int = 4, prompt: str | None = None) -> None:
        self.name = "grey"
        self.factor = factor
        self.count = count
        self.prompt = prompt
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        height, width = 16 + index % 3, 20
        image = torch.full((3, height, width), 51 * (index % 5), dtype=torch.uint8)
        depth_m = self.factor * (1 + image[:1].float() / 255)
        valid = torch.ones(height, width, dtype=torch.bool)
        valid[0] = False
        return Sample(f"g{index}", image, {"depth_m": depth_m}, {"depth_m": valid}, self.prompt)


class Things(AbstractDataset):
    """A black image with two sentences and a white image with one sentence."""

    name = "things"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, 4, 5), 255 * index, dtype=torch.uint8)
        valid = torch.ones(4, 5, dtype=torch.bool)
        sentences = (("a chair", "the dark chair"), ("a lamp",))[index]
        label = {"referent": torch.ones(4, 5, dtype=torch.long)}
        valids = {"referent": valid}
        return Sample(f"t{index}", image, label, valids, sentences[0], sentences=sentences)


class FindDark(AbstractMethod):
    """Predict a full mask if the sentence contains "dark", else none; record all sentences."""

    output_kinds = ("classes",)
    accepts_prompt = True

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(output.channels, 1, 1))
        self.sentences: list[str | None] = []

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        assert inputs.prompts is not None
        self.sentences += inputs.prompts
        logits = torch.tensor([1.0 if "dark" in str(p) else -1.0 for p in inputs.prompts])
        height, width = inputs.image.shape[-2:]
        logits = logits[:, None, None, None].expand(-1, 1, height, width)
        return Classes(torch.cat([-logits, logits], dim=1) + self.bias)


def test_every_sentence_is_evaluated() -> None:
    dense = DenseModel(task=Referring(), method=FindDark)
    result = evaluate(Predictor(dense, Plan(batch_size=2)), Things(), protocols.get("sentences-v1"))
    assert (result.images, result.skipped) == (3, 0)
    assert result.scores["model"]["miou"] == pytest.approx(1 / 3)
    assert dense.method.sentences == ["a chair", "the dark chair", "a lamp"]


ROOMS = protocols.get("rooms-v1")


def test_a_perfect_model_has_perfect_scores_with_windows_and_flips() -> None:
    predictor = Predictor(model(Brightness), Plan(windows=2, flip=True, batch_size=3))
    result = evaluate(predictor, Grey(), ROOMS)
    assert result.images == 4
    assert result.scores["model"]["rmse"] == pytest.approx(0, abs=1e-6)
    assert result.scores["model"]["d1"] == 1


def test_doubled_depth_gives_the_expected_scores() -> None:
    result = evaluate(Predictor(model(Brightness)), Grey(factor=0.5), ROOMS)
    assert result.scores["model"]["abs_rel"] == pytest.approx(1, abs=1e-6)
    assert result.scores["model"]["d1"] == 0


def test_baselines_are_scored_like_the_model() -> None:
    truths = [1.0, 1.2, 1.4, 1.6]
    baselines = {"constant median": torch.full((1, 1), 1.2), "mean map": torch.full((8, 10), 1.3)}
    result = evaluate(Predictor(model(Brightness)), Grey(), ROOMS, baselines=baselines)
    assert list(result.scores) == ["model", "constant median", "mean map"]
    rmse = sum(abs(t - 1.3) for t in truths) / 4
    assert result.scores["mean map"]["rmse"] == pytest.approx(rmse, rel=1e-5)
    rmse = sum(abs(t - 1.2) for t in truths) / 4
    assert result.scores["constant median"]["rmse"] == pytest.approx(rmse, rel=1e-5)


def test_a_table_of_many_metrics_has_a_row_for_each_of_them() -> None:
    result = evaluate(Predictor(model(Brightness)), Grey(), ROOMS)
    scores = {name: {f"IoU {i}": i / 10 for i in range(9)} for name in ("model", "mean map")}
    rows = replace(result, scores=scores).rows()
    assert rows[:2] == [["", "model", "mean map"], ["IoU 0", "0.0000", "0.0000"]]
    few = {name: {"IoU": 0.5} for name in scores}
    assert replace(result, scores=few).rows() == [["", "IoU"], *([n, "0.5000"] for n in few)]


def test_the_protocol_name_states_differences_from_the_official_images() -> None:
    kitti = protocols.get("kitti-garg-v1")  # 652 images of the same size
    result = evaluate(Predictor(model(Blur)), Grey(count=3), kitti)
    name = "part of kitti-garg-v1 (3 of 652 images, images of 16 x 20, not 352 x 1216)"
    assert result.as_dict()["protocol"]["name"] == name
    assert result.protocol.fingerprint != kitti.fingerprint
    assert evaluate(Predictor(model(Blur)), Grey(count=3), ROOMS).protocol == ROOMS


def test_the_model_gets_the_scene_type_only_with_the_oracle_scene_rule() -> None:
    data = Grey(prompt="office")
    mean = evaluate(Predictor(model(Blur)), data, ROOMS)
    oracle = evaluate(
        Predictor(model(Blur)), data, protocols.get("rooms-v1", prompt="oracle-scene")
    )
    assert oracle.scores["model"]["rmse"] > mean.scores["model"]["rmse"] + 1
    assert oracle.as_dict()["protocol"]["prompt"] == "oracle-scene"
    protocol = protocols.get("rooms-v1", prompt="oracle-scene")
    with pytest.raises(InputError, match="has no scene type or sentence"):
        evaluate(Predictor(model(Blur)), Grey(), protocol)


def test_a_data_set_without_a_pixel_that_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="grey under rooms-v1: no image with a valid pixel"):
        evaluate(Predictor(model(Brightness)), Grey(factor=100.0), ROOMS)


def test_at_most_four_samples_are_read_ahead() -> None:
    data = Grey(count=30)
    seen: list[int] = []
    predictor = Predictor(model(Brightness), Plan(batch_size=2))
    evaluate(predictor, data, ROOMS, advance=lambda: seen.append(len(data.read) - len(seen)))
    assert data.read == list(range(30))
    assert max(seen) <= 4


def test_first_samples_reads_only_the_first_samples() -> None:
    data = Grey(count=30)
    result = evaluate(Predictor(model(Brightness)), FirstSamples(data, 3), ROOMS)
    assert data.read == [0, 1, 2]
    assert (result.images, result.data) == (3, "grey, first 3")
    assert len(FirstSamples(data, 99)) == 30


def test_the_error_names_the_sample_and_its_missing_label() -> None:
    dense = model(Brightness)
    dense.task.label = "height_m"
    with pytest.raises(InputError, match=r"sample g0 has no label 'height_m' \(it has: depth_m\)"):
        evaluate(Predictor(dense), Grey(), ROOMS)


class Dots(AbstractDataset):
    """Random images; the class of a pixel is its strongest colour channel."""

    name = "dots"
    class_names: Mapping[str, tuple[str, ...]] = {"semantic": ("red", "green", "blue")}

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 8, 9 + index), dtype=torch.uint8, generator=generator)
        ids = image.int().argmax(dim=0)
        valid = torch.ones(8, 9 + index, dtype=torch.bool)
        return Sample(f"d{index}", image, {"semantic": ids}, {"semantic": valid})


class Strongest(AbstractMethod):
    """Use the colours as logits, so the predicted class is the strongest colour channel."""

    output_kinds = ("classes",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        return Classes(inputs.image * 100)


def test_classes_are_scored_and_data_sets_with_other_classes_refused() -> None:
    dense = DenseModel(task=Segmentation(["red", "green", "blue"]), method=Strongest)
    baselines = {"constant majority": torch.tensor([[1]])}
    result = evaluate(Predictor(dense), Dots(), protocols.get("classes-v1"), baselines=baselines)
    assert result.scores["model"] == {"miou": 1.0, "macc": 1.0, "aacc": 1.0}
    assert result.as_dict()["classes"] == {"red": 1.0, "green": 1.0, "blue": 1.0}
    green = sum(int((Dots()[i].labels["semantic"] == 1).sum()) for i in range(3))
    fraction = green / (8 * (9 + 10 + 11))
    expected = {"miou": fraction / 3, "macc": 1 / 3, "aacc": fraction}
    assert result.scores["constant majority"] == pytest.approx(expected)
    reordered = Predictor(DenseModel(task=Segmentation(["green", "red", "blue"]), method=Strongest))
    with pytest.raises(InputError, match="class 0 is 'red' in data set 'dots' and 'green' in the"):
        evaluate(reordered, Dots(), protocols.get("classes-v1"))
    few = Predictor(DenseModel(task=Segmentation(["red", "green"]), method=Strongest))
    with pytest.raises(InputError, match="has 3 classes, the task 2"):
        evaluate(few, Dots(), protocols.get("classes-v1"))


def test_without_a_protocol_the_metric_of_the_task_is_used() -> None:
    baselines = {"constant median": torch.full((1, 1), 1.2)}
    result = evaluate(Predictor(model(Brightness)), Grey(), baselines=baselines)
    assert result.scores["model"] == pytest.approx({"RMSE, m": 0, "AbsRel": 0, "d1": 1}, abs=1e-6)
    areas = [(16 + i % 3 - 1) * 20 for i in range(4)]
    gaps = [abs(1 + 0.2 * i - 1.2) for i in range(4)]
    square = sum(a * g**2 for a, g in zip(areas, gaps, strict=True)) / sum(areas)
    assert result.scores["constant median"]["RMSE, m"] == pytest.approx(square**0.5, rel=1e-5)
    about = result.as_dict()
    assert json.loads(json.dumps(about)) == about
    assert about["protocol"]["name"] == "Depth metric"
    assert "RMSE, m" in result.protocol.describe()
    dense = DenseModel(task=Segmentation(["red", "green", "blue"]), method=Strongest)
    scores = evaluate(Predictor(dense), Dots(), baselines={"majority": torch.tensor([[1]])}).scores
    assert scores["model"] == dict.fromkeys(scores["model"], 100.0)
    assert scores["model"]["mIoU, %"] == 100
    assert 0 < scores["majority"]["mIoU, %"] < 50


def test_every_sentence_is_evaluated_without_a_protocol_too() -> None:
    dense = DenseModel(task=Referring(), method=FindDark)
    result = evaluate(Predictor(dense), Things())
    assert dense.method.sentences == ["a chair", "the dark chair", "a lamp"]
    assert result.scores["model"] == {"oIoU, %": pytest.approx(100 / 3)}


def test_a_protocol_refuses_predictions_of_another_kind() -> None:
    with pytest.raises(InputError, match="scores classes, but a Depth task has none"):
        evaluate(Predictor(model(Brightness)), Grey(), protocols.get("classes-v1"))
    with pytest.raises(InputError, match="sentences-v1 scores masks of sentences, not Depth"):
        evaluate(Predictor(model(Blur)), Grey(prompt="office"), protocols.get("sentences-v1"))


def test_a_model_that_requires_a_prompt_gets_captions() -> None:
    dense = model(Blur)
    assert resolve_protocol("rooms-v1", dense).prompt == "mean"
    assert resolve_protocol("rooms-v1", dense, oracle_scene=True).prompt == "oracle-scene"
    dense.method.requires_prompt = True
    assert resolve_protocol("rooms-v1", dense).prompt == "caption"
    assert resolve_protocol("classes-v1", dense) == protocols.get("classes-v1")
    with pytest.raises(InputError, match="reads captions, not scene types"):
        resolve_protocol("rooms-v1", dense, oracle_scene=True)


def test_scene_types_are_refused_as_captions_before_a_sample_is_read() -> None:
    data = Grey(prompt="office")
    data.prompt_source = "oracle-scene"
    dense = model(Blur)
    protocol = protocols.get("rooms-v1", prompt="oracle-scene")
    assert evaluate(Predictor(dense), data, protocol).protocol.prompt_source == "oracle-scene"
    data.read.clear()
    dense.method.requires_prompt = True
    message = "data set 'grey.*': the source of its prompts is 'oracle-scene', not 'caption': wrap"
    for dataset in (data, FirstSamples(data, 2)):
        for rules in (resolve_protocol("rooms-v1", dense), ROOMS, None):
            with pytest.raises(InputError, match=f"{message} it in Captioned"):
                evaluate(Predictor(dense), dataset, rules)
    assert not data.read
    data.prompt_source = None  # as in a data set that does not name its source
    result = evaluate(Predictor(dense), data, resolve_protocol("rooms-v1", dense))
    assert result.protocol.prompt_source == "caption"


def test_captions_are_refused_as_scene_types(tmp_path: Path) -> None:
    captions = {f"g{i}": "kitchen" for i in range(4)}
    data = Captioned(
        dataset=Grey(prompt="office"), captions=write_captions(tmp_path / "c", captions, "grey")
    )
    dense = model(Blur)
    oracle = resolve_protocol("rooms-v1", dense, oracle_scene=True)
    with pytest.raises(InputError, match="is 'caption', not 'oracle-scene': leave --oracle-scene"):
        evaluate(Predictor(dense), data, oracle)
    assert evaluate(Predictor(dense), data, ROOMS).images == 4
    dense.method.requires_prompt = True
    protocol = resolve_protocol("rooms-v1", dense)
    assert evaluate(Predictor(dense), data, protocol).protocol.prompt_source == "caption"


def saved(pipeline_folder: Path) -> DenseModel:
    method = FeatureHead.from_backbone(BackboneSource(pipeline_folder))
    return DenseModel(task=Segmentation(["a", "b"]), method=method)


def test_a_result_is_plain_data_that_can_be_recorded_in_the_model_card(
    tmp_path: Path, pipeline_folder: Path
) -> None:
    folder = save(saved(pipeline_folder), tmp_path / "m")
    result = evaluate(Predictor(model(Brightness)), Grey(), ROOMS).as_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["protocol"]["name"] == "rooms-v1"
    assert result["plan"] == "own size, whole image, no flip"
    for _ in range(2):
        record(folder, result)
    record(folder, result | {"plan": "another"})
    stored = read_config(folder)["info"]["results"]
    assert [entry["plan"] for entry in stored] == [result["plan"], "another"]
    assert "rooms-v1" in (folder / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
