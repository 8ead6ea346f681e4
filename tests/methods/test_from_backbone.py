"""Methods with their default parts on a pretrained backbone, for a few labelled images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import images, random_target

from diffsight.adaptation.candidates import candidates
from diffsight.backbones import BackboneSource
from diffsight.config import class_of, to_config
from diffsight.errors import InputError
from diffsight.methods import (
    DDP,
    EVP,
    VPD,
    AbstractMethod,
    FeatureHead,
    FewShot,
    LinearProbe,
    MetaPrompts,
)
from diffsight.model import DenseModel
from diffsight.prompts import ClassTokens, TextTable, Unprompted
from diffsight.prompts.text import build_text_table
from diffsight.tasks import Depth, Segmentation, Values
from diffsight.training.loop import few_shot_losses
from diffsight.training.step import TrainingStep
from diffsight.types import Draws, Inputs


@pytest.fixture(scope="module")
def tiny() -> BackboneSource:
    return BackboneSource("tiny")


@pytest.mark.parametrize("method", [VPD, EVP, MetaPrompts, FewShot, FeatureHead, LinearProbe])
def test_a_builder_has_the_class_of_its_method_and_builds_trainable_models(
    tiny: BackboneSource, method: Any
) -> None:
    builder = method.from_backbone(tiny)
    assert class_of(builder) is method
    depth = Depth(bins=4).fitted(torch.linspace(0.5, 4, 200)[:, None])
    for task in (depth, Segmentation(("wall", "door"))):
        model = DenseModel(task=task, method=builder).train()
        inputs, target = Inputs(images(2, 64, 64)), random_target(task, 2, 64, 64)
        model.losses(inputs, target, draws=Draws((1, 2)))["loss"].backward()
        rates = method.few_shot_defaults().learning_rates
        for name, parameter in model.method.named_parameters():
            if parameter.requires_grad:
                assert any(name.startswith(prefix) for prefix in rates), name
        assert any(p.grad is not None for p in model.parameters())
        call = to_config(model)["init_args"]["method"]
        assert call["class_path"] == f"{method.__module__}.{method.__name__}"


@pytest.mark.parametrize("method", [VPD, EVP, MetaPrompts])
def test_every_model_has_its_own_copy_of_a_trained_unet(tiny: BackboneSource, method: Any) -> None:
    builder, task = method.from_backbone(tiny), Segmentation(("wall", "door"))
    first, second = (DenseModel(task=task, method=builder) for _ in range(2))
    assert first.method.backbone is not second.method.backbone
    assert first.method.backbone is not tiny.diffusion
    assert first.method.frozen() == {}


@pytest.mark.parametrize("method", [FewShot, FeatureHead])
def test_models_share_a_frozen_backbone(tiny: BackboneSource, method: Any) -> None:
    builder, task = method.from_backbone(tiny), Segmentation(("wall", "door"))
    models = [DenseModel(task=task, method=builder) for _ in range(2)]
    assert all(tiny.diffusion in model.method.frozen().values() for model in models)


def test_options_are_passed_to_the_constructor(tiny: BackboneSource) -> None:
    task = Segmentation(("wall", "door"))
    model = DenseModel(task=task, method=FeatureHead.from_backbone(tiny, width=12))
    assert model.method.mix.out_channels == 12


def test_a_method_without_default_parts_is_refused(tiny: BackboneSource) -> None:
    class Own(AbstractMethod):
        output_kinds = ("classes",)

        def forward(self, inputs, encoded=None, target=None, *, draws=None):
            raise NotImplementedError

    with pytest.raises(InputError, match="Own has no default parts for few labelled images"):
        Own.from_backbone(tiny)
    assert Own.few_shot_defaults().learning_rates == {"": 5e-4}


@pytest.mark.parametrize("kind", ["depth", "classes"])
def test_vpd_on_stable_diffusion_has_the_learning_rates_and_prompts_of_the_authors(
    pipeline_folder: Path, kind: str
) -> None:
    source, names = BackboneSource(pipeline_folder), ("wall", "door")
    task = Depth() if kind == "depth" else Segmentation(names)
    (made,) = candidates(
        ["vpd:gradient_checkpointing=true:batch_size=2"], [source], lambda **options: task
    )
    ratio = 0.01 if kind == "depth" else 0.1
    rates = made.settings.learning_rates
    assert rates["backbone"] == pytest.approx(ratio * rates[""])
    assert made.settings.batch_size == 2
    model = DenseModel(task=task, method=made.builder)
    method = model.method
    assert isinstance(method, VPD)
    assert method.backbone.gradient_checkpointing
    assert method.backbone.latent_scale == 1.0
    if kind == "classes":
        expected = build_text_table(names, encoder=pipeline_folder, templates="single")
        assert isinstance(method.prompts, ClassTokens)
        assert torch.equal(method.prompts.rows, expected)
        assert method.maps.levels == (1, 2)
    else:
        assert isinstance(method.prompts, Unprompted)
    step = TrainingStep.of_settings(model, few_shot_losses(model), made.settings, 1)
    scales = sorted({group.lr_scale for group in step.groups})
    assert scales == pytest.approx([ratio, 1.0])
    inputs, target = Inputs(images(2, 64, 64)), random_target(task, 2, 64, 64)
    model.losses(inputs, target, draws=Draws((1, 2)))["loss"].backward()


def test_vpd_on_the_packaged_model_has_its_own_defaults(tiny: BackboneSource) -> None:
    task = Segmentation(("wall", "door"))
    (made,) = candidates(["vpd"], [tiny], lambda **options: task)
    assert made.settings == VPD.few_shot_defaults()
    assert isinstance(DenseModel(task=task, method=made.builder).method.prompts, TextTable)


def test_ddp_refuses_values_without_bounds_and_names_another_method(tiny: BackboneSource) -> None:
    with pytest.raises(InputError, match=r"^DDP needs bounds .*, or choose another method$"):
        DenseModel(task=Values(bins=None), method=DDP.from_backbone(tiny))
