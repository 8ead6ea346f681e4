"""The cost of a pass: its memory, followed tensor by tensor, and its operations."""

import torch
from torch import nn
from torch.nn import functional

from diffsight.cli.fit import fit_parser
from diffsight.cli.recipe import parse
from diffsight.inference import cost
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.outputs import OutputSpec, Values
from diffsight.tasks import Depth
from diffsight.training.fit import fit


class Chain(nn.Module):
    """Widens, is changed in place, looked at sideways, and narrows."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(10, 1000), nn.Linear(1000, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.wide(x).relu_()
        return self.narrow(hidden.view(-1, 1000)) + 1


def live(module: nn.Module, *inputs: torch.Tensor) -> int:
    counter = cost._Live([*module.parameters(), *inputs])
    with torch.no_grad(), cost._FusedAttention(), counter:
        module(*inputs)
    return counter.peak


def test_the_fullest_moment_of_a_chain_is_known() -> None:
    """The wide result, which has a name, and two narrow ones; views and changes in place: none."""
    for device in ("meta", "cpu"):
        chain = Chain().to(device)
        assert live(chain, torch.empty(8, 10, device=device)) == 4 * 8 * (1000 + 10 + 10)


def test_no_attention_matrix() -> None:
    class Attends(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, q, q)

    q = torch.empty(1, 4, 4096, 16, device="meta")
    assert live(Attends(), q) == q.numel() * q.element_size()


def test_a_sentence_is_counted_by_its_placeholder() -> None:
    class Reader(AbstractMethod):
        output_kinds = ("values",)
        accepts_prompt = True

        def __init__(self, *, output: OutputSpec) -> None:
            super().__init__()
            self.text = nn.Linear(8, output.channels)

        def example_text(self) -> torch.Tensor:
            return torch.empty(1, 5, 8, device="meta")

        def forward(self, inputs, encoded=None, target=None, *, draws=None) -> Values:
            offset = self.text(inputs.text).mean(dim=1)[..., None, None]
            return Values(inputs.image.mean(dim=1, keepdim=True) + offset)

    with torch.device("meta"):
        model = DenseModel(task=Depth(), method=Reader)
    counted = cost.cost(model, 4, 6)
    assert counted.parameters == counted.trainable == 9
    assert counted.multiply_adds == 5 * 8
    assert counted.weights_bytes == 4 * 9
    assert counted.peak_bytes >= 4 * (9 + 3 * 4 * 6 + 4 * 6)


def test_a_pass_over_six_cameras_is_counted() -> None:
    """The image encoder costs as its pixels, the decoder of the map does not."""
    words = ["--recipe", "streets/ddp_cameras", "--out", "unused"]
    built = fit_parser().instantiate(parse(fit_parser(), words, fit))
    with torch.device("meta"):
        model = DenseModel(task=built.task, method=built.method)
    one, two = (cost.cost(model.to("meta"), height, 176).multiply_adds for height in (64, 128))
    assert one > 0
    assert 1 < two / one < 2  # twice the pixels, the same map
