"""DenseModel: the output that a method predicts for a task, and pairs that are refused."""

from functools import partial

import pytest
import torch

from diffsight.backbones import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import DeconvHead
from diffsight.inference.evaluate import resolve_protocol
from diffsight.methods import VPD, FewShot
from diffsight.model import DenseModel, choose_output
from diffsight.necks import Merging
from diffsight.prompts import LearnedTokens, Sentences, TextTable
from diffsight.tasks import Depth, Normals, Referring, Segmentation, Values
from diffsight.types import Inputs
from tests.support import SMALL, images, random_target


def vpd(**options) -> partial:
    torch.manual_seed(0)
    parts = {
        "backbone": StableDiffusion(SMALL),
        "prompts": TextTable(["any"], dim=24),
        "neck": partial(Merging, width=48, groups=8),
        "head": partial(DeconvHead, widths=(8, 8, 8), width=12),
    }
    return partial(VPD, **parts | options)


def test_a_model_uses_the_first_output_that_the_method_supports() -> None:
    depth = Depth(bins=4).fitted(torch.linspace(1, 5, 100)[:, None])
    assert choose_output(depth, FewShot).kind == "distribution"
    assert choose_output(depth, VPD).kind == "values"
    assert choose_output(depth, VPD).bounds == (0.0, 10.0)
    assert choose_output(Segmentation(("a", "b")), FewShot).kind == "classes"
    # for a builder of unknown class, the first output of the task is chosen
    assert choose_output(depth, lambda output: pytest.fail("not called")).kind == "distribution"


@pytest.mark.parametrize("task", [Depth(), Normals(), Values()])
def test_methods_that_predict_distributions_refuse_tasks_without_bins(task) -> None:
    with pytest.raises(InputError) as caught:
        DenseModel(task=task, method=partial(FewShot, backbone=StableDiffusion(SMALL)))
    message = str(caught.value)
    assert message.startswith("FewShot predicts distribution or classes, but ")
    assert message.endswith(
        f"{type(task).__name__} needs {task.outputs[0].describe()}: set the task's bins"
    )
    assert "\n" not in message


def test_a_referring_task_refuses_methods_without_sentences() -> None:
    with pytest.raises(InputError, match="FewShot reads no sentences, but Referring needs"):
        DenseModel(task=Referring(), method=partial(FewShot, backbone=StableDiffusion(SMALL)))


def test_a_prompt_is_required_by_the_task_or_the_method() -> None:
    assert not DenseModel(task=Depth(), method=vpd()).requires_prompt
    assert DenseModel(task=Depth(), method=vpd(prompts=Sentences(5, dim=24))).requires_prompt
    assert DenseModel(task=Referring(), method=vpd()).requires_prompt


def test_a_text_is_refused_if_the_prompts_are_the_same_for_all_images() -> None:
    reader = DenseModel(task=Depth(), method=vpd())
    reader.check_prompt("any")
    model = DenseModel(task=Depth(), method=vpd(prompts=LearnedTokens(4, dim=24)))
    model.check_prompt(None)
    with pytest.raises(InputError, match="the model reads no text: leave the prompt out"):
        model.check_prompt("kitchen")
    with pytest.raises(InputError, match="reads no scene types: leave --oracle-scene out"):
        resolve_protocol("rooms-v1", model, oracle_scene=True)
    assert resolve_protocol("rooms-v1", reader, oracle_scene=True).prompt == "oracle-scene"


def test_losses_accept_precomputed_features_and_soft_labels() -> None:
    model = DenseModel(task=Depth(), method=vpd()).eval()
    inputs = Inputs(images(2, 64, 96))
    target = random_target(model.task, 2, 64, 96)
    with torch.no_grad():
        losses = model.losses(inputs, target)
        assert torch.equal(
            model.losses(inputs, target, encoded=model.encode(inputs))["loss"], losses["loss"]
        )
        predictions = model.predict(inputs)
    assert len(predictions) == 2
    assert torch.equal(predictions[0].to_label(), model(inputs).stack[0])


def test_the_task_is_a_submodule_saved_with_the_model() -> None:
    """So its bins are saved and moved together with the weights."""
    task = Values(bins=4).fitted(torch.rand(100, 1))
    model = DenseModel(task=task, method=vpd())
    assert any(name.startswith("task.codec.") for name in model.state_dict())
    assert model.info == {}
