"""Count the parameters, operations and memory of one forward pass without computing it."""

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffsight.model import DenseModel
from diffsight.types import Draws, Inputs

# products of queries, keys and values, which the counters of mmcv and others do not count
_ATTENTION = ("scaled_dot_product", "bmm")


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass over one image.

    Attributes:
        parameters: number of parameters.
        trainable: number of trainable parameters.
        multiply_adds: multiply-adds of convolutions, linear layers and attention.
        attention_multiply_adds: multiply-adds of the products of queries, keys and values,
            including those for the averaged attention maps.
        weights_bytes: size of weights and buffers.
        peak_bytes: peak memory of weights, image and intermediate tensors; the workspace of kernels
            is not counted.
    """

    parameters: int
    trainable: int
    multiply_adds: int
    attention_multiply_adds: int
    weights_bytes: int
    peak_bytes: int


def estimate_cost(model: DenseModel, height: int, width: int) -> Cost:
    """Return the cost of one forward pass over one image.

    Args:
        model: model on the meta device, so that nothing is computed.
        height: height of the image in pixels; for several cameras that of each image.
        width: width of the image in pixels; for several cameras that of each image.
    """
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # the counter refuses a module that returns a view of a trainable parameter
    model = copy.deepcopy(model).eval().requires_grad_(False)
    image = torch.empty(1, 3, height, width, device="meta")
    rig = model.method.example_rig((height, width))
    inputs = Inputs(image, text=model.method.example_text(), rig=rig)
    texts = [] if inputs.text is None else [inputs.text]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(inputs, draws=Draws((0,)))
    memory = _MemoryCounter([*model.parameters(), *model.buffers(), *texts])
    with torch.no_grad(), _FusedAttention(), memory:
        model(replace(inputs, image=torch.empty_like(image)), draws=Draws((0,)))
    counts = counter.get_flop_counts()
    # a linear layer on transposed features is a batched product too: it is no attention
    linear = [
        f"{type(model).__name__}.{name}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    attention = _sum_products(counts["Global"]) - sum(
        _sum_products(counts.get(n, {})) for n in linear
    )
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=trainable,
        multiply_adds=sum(counts["Global"].values()) // 2,
        attention_multiply_adds=attention // 2,
        weights_bytes=weights,
        peak_bytes=weights + memory.peak,
    )


class _MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at a time; ``peak`` is the maximum.

    Args:
        ignored: tensors that are not counted.
    """

    def __init__(self, ignored: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._ignored = {tensor.untyped_storage()._cdata for tensor in ignored}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and count the tensors that it returns."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._ignored:  # also a view, or the result of an operation in place
            return
        self._ignored.add(key)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._ignored.discard(key)
        self._now -= size


class _FusedAttention(TorchFunctionMode):
    """Replaces attention by an operator that allocates only its result.

    On the meta device torch would allocate the attention matrix, which real kernels do not.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace ``scaled_dot_product_attention``; run every other function unchanged."""
        if func is functional.scaled_dot_product_attention:
            return _AllocatedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _AllocatedAttention(torch.autograd.Function):
    """Attention that computes nothing, and allocates what fused kernels do: result and gradients.

    FewShot computes its maps as the gradient of attention.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return an empty tensor of the result's shape."""
        ctx.shapes = query.shape, key.shape, value.shape
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return empty gradients of queries, keys and values."""
        return tuple(gradients[0].new_empty(shape) for shape in ctx.shapes)


def _sum_products(counts: Mapping[Any, int]) -> int:
    """Return the operations of batched matrix products and attention.

    Args:
        counts: operations by operator, as ``FlopCounterMode`` returns them for a module.
    """
    return sum(n for op, n in counts.items() if any(part in str(op) for part in _ATTENTION))
