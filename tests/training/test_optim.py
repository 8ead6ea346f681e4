"""Parameter groups: learning rates, weight decay, and rules that match no parameter."""

import io

import pytest
import torch
from rich.console import Console
from tests.training.conftest import Tiny
from torch import nn

from diffsight.errors import InputError
from diffsight.outputs import OutputSpec
from diffsight.training.optim import AdamW, Rule, table


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.method = Tiny(output=OutputSpec("values", 1))


VPD_DEPTH = AdamW(lr=5e-4, weight_decay=0.1, lr_scale={"method.backbone.unet": 0.01})


def test_vpd_depth_has_a_slow_unet_group_and_no_decay_for_vectors():
    groups = VPD_DEPTH.groups(Wrapped())
    found = {g.name: (set(g.parameters), g.lr_scale, g.weight_decay) for g in groups}
    assert found == {
        "method.backbone.unet": ({"method.backbone.unet.weight"}, 0.01, 0.1),
        "method.backbone.unet, vectors": ({"method.backbone.unet.bias"}, 0.01, 0.0),
        "everything else": ({"method.head.weight"}, 1.0, 0.1),
        "everything else, vectors": (
            {"method.norm.weight", "method.norm.bias", "method.head.bias"},
            1.0,
            0.0,
        ),
    }


def test_the_optimiser_has_the_learning_rate_and_decay_of_each_group():
    model = Wrapped()
    optimiser = VPD_DEPTH.build(VPD_DEPTH.groups(model))
    rates = {
        id(p): (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]
    }
    named = dict(model.named_parameters())
    assert rates[id(named["method.backbone.unet.weight"])] == (pytest.approx(5e-6), 0.1)
    assert rates[id(named["method.head.bias"])] == (pytest.approx(5e-4), 0.0)
    assert id(named["method.fixed.weight"]) not in rates
    assert len(rates) == 6


def test_the_longest_prefix_wins_and_no_decay_can_be_switched_off():
    optim = AdamW(lr=1.0, lr_scale={"method": 0.1, "method.head": 0.2}, no_decay="none")
    groups = {g.name: g for g in optim.groups(Wrapped())}
    assert set(groups) == {"method", "method.head"}
    assert set(groups["method.head"].parameters) == {"method.head.weight", "method.head.bias"}
    assert groups["method.head"].weight_decay == 0.01


def test_a_prefix_must_end_at_a_dot():
    with pytest.raises(
        InputError, match=r"no trainable parameter is called method.back.\*.*'method"
    ):
        AdamW(lr=1.0, lr_scale={"method.back": 0.1}).groups(Wrapped())


def test_a_learning_rate_scale_for_no_trainable_parameter_is_refused():
    with pytest.raises(InputError, match=r"did you mean 'method\.backbone\.unet'"):
        AdamW(lr=1.0, lr_scale={"backbone.unet": 0.1}).groups(Wrapped())
    with pytest.raises(InputError, match=r"method\.fixed"):
        AdamW(lr=1.0, lr_scale={"method.fixed": 0.1}).groups(Wrapped())


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(InputError, match="no trainable parameter: unfreeze"):
        AdamW(lr=1.0).groups(Wrapped().requires_grad_(False))


def test_the_table_of_groups_shows_every_group():
    console = Console(file=io.StringIO(), width=120)
    console.print(table(VPD_DEPTH.groups(Wrapped()), 5e-4))
    text = console.file.getvalue()
    for cell in ("method.backbone.unet, vectors", "5e-06", "0.0005", "108", "0.1"):
        assert cell in text


def test_weight_decay_is_decoupled():
    parameter = nn.Parameter(torch.ones(2, 2))
    model = nn.ParameterDict({"w": parameter})
    optim = AdamW(lr=0.1, weight_decay=0.5)
    optimiser = optim.build(optim.groups(model))
    parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 1 - 0.1 * 0.5))


def test_the_first_matching_rule_wins():
    rules = [Rule("*.unet.bias", lr_scale=2.0, decays=False), Rule("*unet*", decays=True)]
    optim = AdamW(lr=1.0, weight_decay=0.1, no_decay="none", rules=rules)
    found = {
        g.name: (set(g.parameters), g.lr_scale, g.weight_decay) for g in optim.groups(Wrapped())
    }
    assert found["*.unet.bias"] == ({"method.backbone.unet.bias"}, 2.0, 0.0)
    assert found["*unet*"] == ({"method.backbone.unet.weight"}, 1.0, 0.1)
    assert "method.backbone.unet.weight" not in found["everything"][0]
    with pytest.raises(InputError, match=r"rule '\*vae\*': no trainable parameter has such a name"):
        AdamW(lr=1.0, rules=[Rule("*vae*")]).groups(Wrapped())
