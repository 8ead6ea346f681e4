"""The plain loop and Lightning drive the same training step and give equal weights."""

import copy
import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import assert_same_weights
from tests.training.conftest import Frozen, FrozenTiny, Noise, Stripes, Tiny
from torch import nn

from diffsight.errors import InputError
from diffsight.hub import load, read_config
from diffsight.inference import Predictor
from diffsight.methods.base import FitSettings
from diffsight.model import DenseModel
from diffsight.ops import precision
from diffsight.tasks import Depth
from diffsight.training import checkpoints
from diffsight.training.callbacks import LAST, Pictures
from diffsight.training.data import TrainingStream
from diffsight.training.fit import fit
from diffsight.training.learner import Learner
from diffsight.training.loop import train
from diffsight.training.objective import Supervised
from diffsight.training.optim import AdamW
from diffsight.training.options import TrainerOptions
from diffsight.training.rng import restore_rng, rng_state
from diffsight.training.schedules import Constant, CosineCycle, Poly
from diffsight.training.state import load_trained_state, trained_state
from diffsight.training.step import TrainingStep
from diffsight.training.trainer import running, trainer_for

STEPS = 10
CLIP = 0.05
STREAM = TrainingStream(dataset=Stripes(), label="depth_m", augment=[Noise()], batch_size=4, seed=2)


def new_model(cls: type[Tiny] = Tiny) -> DenseModel:
    torch.manual_seed(0)
    options = {"part": Frozen()} if cls is FrozenTiny else {}
    return DenseModel(task=Depth(), method=functools.partial(cls, **options))


def parts() -> dict[str, Any]:
    optim = AdamW(lr=1e-2, weight_decay=0.1, lr_scale={"method.backbone.unet": 0.1})
    return {"optim": optim, "schedule": Poly(warmup_steps=3, power=0.9)}


def plain_step(model: DenseModel) -> TrainingStep:
    return TrainingStep(
        model,
        Supervised(model, None).losses,
        steps=STEPS,
        steps_per_epoch=float(STREAM.batches_per_epoch),
        clip_norms={"": CLIP},
        **parts(),
    )


def train_with_plain_loop(model: DenseModel) -> DenseModel:
    step = plain_step(model)
    torch.manual_seed(1)
    train(step, STREAM.batches(), optimiser=step.optimiser(fused=True))
    return model


def train_with_lightning(
    model: DenseModel, out: Path, *, stop: int | None = None, resume: bool = False
) -> DenseModel:
    learner = Learner(
        Supervised(model, None),
        stream=STREAM,
        steps=STEPS,
        clip_norm=CLIP,
        validation=lambda rank, world: (),
        recipe={},
        **parts(),
    )
    options = TrainerOptions(device="cpu", checkpoint_every=4, validate_every=100)
    out.mkdir(exist_ok=True)
    trainer = trainer_for(learner, out, options, Pictures(out / "pictures", model.task))
    if stop is not None:
        trainer.fit_loop.epoch_loop.max_steps = stop
    torch.manual_seed(1)
    with running(trainer):
        last = out / LAST if resume else None
        trainer.fit(learner, ckpt_path=last, weights_only=True)
    return model


@pytest.fixture(scope="module")
def reference() -> DenseModel:
    """Return a model after ten steps of the plain loop with clipping and a schedule."""
    return train_with_plain_loop(new_model())


def test_plain_loop_and_lightning_give_equal_weights(reference: DenseModel, tmp_path: Path) -> None:
    assert_same_weights(train_with_lightning(new_model(), tmp_path / "run"), reference)
    start = new_model().state_dict()
    moved = [n for n, v in reference.state_dict().items() if not torch.equal(v, start[n])]
    assert "method.backbone.unet.weight" in moved
    assert "method.norm.running_mean" in moved
    assert "method.fixed.weight" not in moved


@pytest.mark.parametrize("change", [{"clip_norms": {}}, {"schedule": Constant()}])
def test_clipping_and_the_schedule_have_an_effect(
    change: dict[str, Any], reference: DenseModel
) -> None:
    step = plain_step(model := new_model())
    for name, value in change.items():
        setattr(step, name, value)
    torch.manual_seed(1)
    train(step, STREAM.batches(), optimiser=step.optimiser(fused=True))
    assert not torch.equal(model.method.head.weight, reference.method.head.weight)


def test_resuming_the_plain_loop_gives_equal_weights(reference: DenseModel) -> None:
    """The state includes the buffers of batch norm and the random numbers of dropout."""
    step = plain_step(model := new_model())
    optimiser = step.optimiser(fused=True)
    torch.manual_seed(1)
    train(step, itertools.islice(STREAM.batches(), 6), optimiser=optimiser)
    state = copy.deepcopy((trained_state(model), optimiser.state_dict(), rng_state()))
    assert "method.norm.running_var" in state[0]
    torch.manual_seed(7)
    again = plain_step(other := new_model())
    load_trained_state(other, state[0])
    resumed = again.optimiser(fused=True)
    resumed.load_state_dict(state[1])
    restore_rng(state[2])
    train(again, STREAM.batches(6), start=6, optimiser=resumed)
    assert_same_weights(other, reference)


def test_resuming_lightning_gives_equal_weights(reference: DenseModel, tmp_path: Path) -> None:
    train_with_lightning(new_model(), tmp_path / "run", stop=6)
    assert checkpoints.load(tmp_path / "run" / LAST)["global_step"] == 6
    torch.manual_seed(7)
    again = train_with_lightning(new_model(), tmp_path / "run", resume=True)
    assert_same_weights(again, reference)


def test_checkpoints_do_not_contain_frozen_parts(tmp_path: Path) -> None:
    whole = train_with_lightning(new_model(FrozenTiny), tmp_path / "whole")
    assert not [name for name in trained_state(whole) if name.startswith("method.part.")]
    train_with_lightning(new_model(FrozenTiny), tmp_path / "run", stop=6)
    names = checkpoints.load(tmp_path / "run" / LAST)["state_dict"]
    assert "objective.model.method.norm.running_mean" in names
    assert "objective.model.method.fixed.weight" in names
    assert not [name for name in names if ".part." in name]
    again = train_with_lightning(new_model(FrozenTiny), tmp_path / "run", resume=True)
    assert_same_weights(again, whole)
    with pytest.raises(InputError, match=r"to another model \(\d+ tensors differ, first"):
        train_with_lightning(new_model(Wide), tmp_path / "run", resume=True)


class Wide(Tiny):
    """Tiny with one more parameter."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.more = nn.Parameter(torch.zeros(2))


def test_a_fitted_model_is_saved_with_a_reference_to_its_frozen_part(tmp_path: Path) -> None:
    fitted = fit(
        task=Depth(),
        method=functools.partial(FrozenTiny, part=Frozen()),
        train=Stripes(),
        val=Stripes(length=2),
        optim=AdamW(lr=1e-2),
        out=tmp_path / "run",
        batch_size=4,
        steps=2,
        workers=0,
        device="cpu",
    )
    assert fitted is not None
    entry = read_config(tmp_path / "run")["frozen"]["part"]
    assert entry["source"] == "tiny"
    assert_same_weights(load(tmp_path / "run", trusted=("tests",)), fitted.model)


def test_few_shot_settings_give_learning_rates_and_clipping_by_prefix() -> None:
    settings = FitSettings(
        {"": 1e-2, "backbone.unet": 1e-3, "nothing": 1.0},
        batch_size=2,
        max_steps=10,
        clip_norms={"head": 0.5},
    )
    model = new_model()
    step = TrainingStep.of_settings(model, Supervised(model, None).losses, settings, 4)
    rates = {name: group.lr_scale for group in step.groups for name in group.parameters}
    assert rates["method.backbone.unet.weight"] == pytest.approx(0.1)
    assert rates["method.head.weight"] == 1
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    step.clip()
    norm = torch.cat([p.grad.flatten() for p in model.method.head.parameters()]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-3)
    assert torch.equal(model.method.norm.bias.grad, torch.ones(4))


def test_a_norm_for_all_parameters_of_a_method_is_used() -> None:
    model = new_model()
    norms = {"": 0.5, "not_in_this_variant": 1.0}
    settings = FitSettings({"": 1e-3}, batch_size=2, max_steps=4, clip_norms=norms)
    step = TrainingStep.of_settings(model, Supervised(model, None).losses, settings, 4)
    assert step.clip_norms == {"": 0.5}


def test_a_diverged_training_ends_with_an_error() -> None:
    model = new_model()
    step = plain_step(model)
    step.require_finite("check the labels")
    model.method.fixed.weight.data.fill_(torch.nan)  # frozen weights are not checked
    step.require_finite("check the labels")
    model.method.head.bias.data.fill_(torch.inf)
    with pytest.raises(
        InputError, match="diverged, its weights are not finite: check the labels"
    ) as error:
        step.require_finite("check the labels")
    assert "\n" not in str(error.value)


def test_training_uses_tf32_if_the_gpu_has_it_and_validation_never_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_tf32", lambda device: True)
    before = torch.get_float32_matmul_precision()
    model = new_model()
    used: list[str] = []
    model.method.register_forward_pre_hook(
        lambda *_: used.append(torch.get_float32_matmul_precision())
    )
    batches = list(itertools.islice(STREAM.batches(), 2))
    train(plain_step(model), batches)
    assert used == ["high", "high"]
    with precision.training_products(torch.device("cpu")):
        Supervised(model, None).score(batches[0].batch)
    assert used[2:] == ["highest"]
    next(Predictor(model)([torch.rand(3, 8, 8)]))
    assert used[3:] == ["highest"]
    assert torch.get_float32_matmul_precision() == before


def test_a_schedule_can_set_the_momentum() -> None:
    optim, net = AdamW(lr=1e-3), nn.Linear(2, 2)
    step = TrainingStep(net, lambda batch: {}, optim=optim, schedule=CosineCycle(), steps=10)
    optimiser = step.optimiser()
    step.set_rates(optimiser, 4)
    (*_, group) = optimiser.param_groups
    assert group["betas"] == (pytest.approx(0.9 * 0.85 / 0.95), 0.999)
    assert group["lr"] == pytest.approx(1e-2)
    step.set_rates(optimiser, 0)
    assert group["betas"] == (pytest.approx(0.9), 0.999)
