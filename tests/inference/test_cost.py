"""The cost of a forward pass: peak memory, operations and parameters."""

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
    """Two linear layers, with an in-place operation and a view between them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(10, 1000), nn.Linear(1000, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.wide(x).relu_()
        return self.narrow(hidden.view(-1, 1000)) + 1


def peak_bytes(module: nn.Module, *inputs: torch.Tensor) -> int:
    counter = cost._MemoryCounter([*module.parameters(), *inputs])
    with torch.no_grad(), cost._FusedAttention(), counter:
        module(*inputs)
    return counter.peak


def test_peak_memory_ignores_views_and_in_place_operations() -> None:
    """At the peak, the wide tensor and two narrow tensors exist at the same time."""
    for device in ("meta", "cpu"):
        chain = Chain().to(device)
        assert peak_bytes(chain, torch.empty(8, 10, device=device)) == 4 * 8 * (1000 + 10 + 10)


def test_peak_memory_does_not_include_attention_matrices() -> None:
    class Attends(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, q, q)

    q = torch.empty(1, 4, 4096, 16, device="meta")
    assert peak_bytes(Attends(), q) == q.numel() * q.element_size()


def test_the_cost_of_a_method_with_sentences_uses_its_example_text() -> None:
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
    costs = cost.estimate_cost(model, 4, 6)
    assert costs.parameters == costs.trainable == 9
    assert costs.multiply_adds == 5 * 8
    assert costs.weights_bytes == 4 * 9
    assert costs.peak_bytes >= 4 * (9 + 3 * 4 * 6 + 4 * 6)


def test_a_module_that_returns_a_view_of_its_trainable_vectors_is_counted() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.empty(3, 1))

        def forward(self, batch: int) -> torch.Tensor:
            return self.rows.expand(batch, -1, -1)

    class Concepts(AbstractMethod):
        output_kinds = ("values",)

        def __init__(self, *, output: OutputSpec) -> None:
            super().__init__()
            self.vectors = Vectors()
            self.unused = nn.Linear(2, 2)

        def forward(self, inputs, encoded=None, target=None, *, draws=None) -> Values:
            rows = self.vectors(len(inputs.image)).transpose(1, 2)
            return Values((rows @ inputs.image.flatten(2)).unflatten(2, inputs.image.shape[-2:]))

    with torch.device("meta"):
        model = DenseModel(task=Depth(), method=Concepts)
    costs = cost.estimate_cost(model, 4, 6)
    assert costs.multiply_adds == costs.attention_multiply_adds == 3 * 4 * 6
    assert costs.parameters == costs.trainable == 3 + 6
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_larger_camera_images_do_not_raise_the_cost_of_the_map_decoder() -> None:
    arguments = ["--recipe", "streets/ddp_cameras", "--out", "unused"]
    built = fit_parser().instantiate(parse(fit_parser(), arguments, fit))
    with torch.device("meta"):
        model = DenseModel(task=built.task, method=built.method)
    small, large = (
        cost.estimate_cost(model.to("meta"), height, 176).multiply_adds for height in (64, 128)
    )
    assert small > 0
    assert 1 < large / small < 2  # the images have twice the pixels, the map is the same
