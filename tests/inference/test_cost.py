"""What a pass holds in memory, followed tensor by tensor."""

import torch
from torch import nn
from torch.nn import functional

from diffsight.inference import cost


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
