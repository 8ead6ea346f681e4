"""A damaged state of an interrupted adaptation is refused in one line."""

import copy

import pytest
import torch
from tests.support_models import tiny

from diffsight.errors import InputError
from diffsight.model import DenseModel
from diffsight.training.checkpoints import KEY, SEAL
from diffsight.training.rng import rng_state
from diffsight.training.state import AdaptState, load_trained_state, trained_state

DECISIVE = {"images": "x"}


NAME = "method.head.output.2.bias"


@pytest.fixture
def network() -> DenseModel:
    return tiny()


@pytest.fixture
def path(tmp_path, network):
    state = AdaptState.open(tmp_path / "state", DECISIVE, resume=False)
    optimiser = torch.optim.AdamW(network.parameters())
    state.plan, state.runs = {"vpd": 3}, {"vpd, fold 1": {"trained": trained_state(network)}}
    state.current = {"run": "vpd, fold 2", "step": 2, "trained": trained_state(network)}
    state.current |= {"optimiser": optimiser.state_dict(), "rng": rng_state()}
    state.save()
    return tmp_path / "state"


def resume(path, network) -> int:
    state = AdaptState.open(path, DECISIVE, resume=True)
    return state.restore(network, torch.optim.AdamW(network.parameters()))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("plan"),
        lambda s: s.update(plan=[3]),
        lambda s: s.update(plan={"vpd": "three"}),
        lambda s: s.update(runs=None),
        lambda s: s.update(runs={"vpd": {}}),
        lambda s: s.update(current=3),
        lambda s: s["current"].pop("step"),
        lambda s: s["current"].update(step="two"),
        lambda s: s["current"].update(trained=None),
        lambda s: s["current"]["trained"].update({NAME: 3}),
        lambda s: s["current"]["trained"].update({NAME: torch.ones(2)}),
        lambda s: s["current"]["trained"].update({NAME: torch.ones(8, device="meta")}),
        lambda s: s["current"]["trained"].update(other=torch.ones(3, 2)),
        lambda s: s["current"].update(optimiser={}),
        lambda s: s["current"].update(rng={"python": []}),
        lambda s: s["current"]["rng"].update(torch=torch.ones(3, dtype=torch.uint8)),
    ],
)
def test_damaged_states_are_refused(path, network, change) -> None:
    assert resume(path, network) == 2
    stored = torch.load(path, weights_only=True)
    del stored[SEAL]  # states of earlier versions have no hash
    change(stored[KEY])
    torch.save(stored, path)
    with pytest.raises(InputError, match=r"state: damaged .*start again with --overwrite") as error:
        resume(path, network)
    assert "\n" not in str(error.value)


def test_a_state_with_a_changed_byte_is_refused(path, network) -> None:
    stored = torch.load(path, weights_only=True)
    stored[KEY]["current"]["trained"][NAME].view(torch.uint8)[3] ^= 1
    torch.save(stored, path)
    with pytest.raises(InputError, match=r"state: damaged: start again with --overwrite"):
        resume(path, network)


def test_tensors_of_another_model_are_refused(network) -> None:
    values = copy.deepcopy(trained_state(network))
    load_trained_state(network, values)
    with pytest.raises(ValueError, match=rf"{NAME} is not a tensor of this model"):
        load_trained_state(network, values | {NAME: torch.ones(4)})
