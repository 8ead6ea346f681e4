"""What one pass of a model costs, counted without computing it."""

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

# products of queries, keys and values; the counters of mmcv and others leave them out
_ATTENTION = ("scaled_dot_product", "bmm")


@dataclass(frozen=True)
class Cost:
    """One image, one pass.

    Attributes:
        parameters: numbers in the model.
        trainable: those that learn.
        multiply_adds: of convolutions, linear layers and attention.
        attention_multiply_adds: the part of the products of queries, keys and values, the averaged
            attention maps included.
        weights_bytes: weights and buffers.
        peak_bytes: the largest memory in use at once: weights, image and intermediate tensors; a
            kernel's own scratch space is not counted.
    """

    parameters: int
    trainable: int
    multiply_adds: int
    attention_multiply_adds: int
    weights_bytes: int
    peak_bytes: int


def cost(model: DenseModel, height: int, width: int) -> Cost:
    """Return the cost of a pass over one image of ``height`` x ``width`` pixels.

    Args:
        model: on the meta device, where nothing is computed.
        height: of the image, or of those of several cameras.
        width: likewise.
    """
    model = model.eval()
    image = torch.empty(1, 3, height, width, device="meta")
    rig = model.method.example_rig((height, width))
    inputs = Inputs(image, text=model.method.example_text(), rig=rig)
    texts = [] if inputs.text is None else [inputs.text]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(inputs, draws=Draws((0,)))
    live = _Live([*model.parameters(), *model.buffers(), *texts])
    with torch.no_grad(), _FusedAttention(), live:
        model(replace(inputs, image=torch.empty_like(image)), draws=Draws((0,)))
    counts = counter.get_flop_counts()
    # a linear layer on transposed features is a batched product, too
    linear = [
        f"{type(model).__name__}.{name}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    attention = _products(counts["Global"]) - sum(_products(counts[n]) for n in linear)
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        multiply_adds=sum(counts["Global"].values()) // 2,
        attention_multiply_adds=attention // 2,
        weights_bytes=weights,
        peak_bytes=weights + live.peak,
    )


class _Live(TorchDispatchMode):
    """Adds up the bytes of tensors while they live.

    Args:
        ignored: tensors that do not count.
    """

    def __init__(self, ignored: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._ignored = {tensor.untyped_storage()._cdata for tensor in ignored}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._ignored:  # a view, or changed in place
            return
        self._ignored.add(key)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._ignored.discard(key)
        self._now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention that makes nothing but its result, as it does wherever it is not only counted."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Stand in for torch's attention; everything else is as it was."""
        if func is functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def _products(counts: Mapping[Any, int]) -> int:
    return sum(n for op, n in counts.items() if any(part in str(op) for part in _ATTENTION))
