"""What one pass of a model costs, counted without computing it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffsight.methods.prompted import AbstractPrompted
from diffsight.model import DenseModel
from diffsight.prompts import LearnedSentences, Sentences
from diffsight.types import Inputs

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
    """

    parameters: int
    trainable: int
    multiply_adds: int
    attention_multiply_adds: int
    weights_bytes: int


def cost(model: DenseModel, height: int, width: int) -> Cost:
    """Count a pass over one image of ``height`` x ``width`` pixels.

    Args:
        model: on the meta device, where nothing is computed.
        height: of the image.
        width: of the image.
    """
    model = model.eval()
    inputs = Inputs(torch.empty(1, 3, height, width, device="meta"), cached=_text(model))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(inputs)
    counts = counter.get_flop_counts()
    # a linear layer on transposed features is a batched product, too
    linear = [
        f"{type(model).__name__}.{name}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    attention = _products(counts["Global"]) - sum(_products(counts[n]) for n in linear)
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        multiply_adds=sum(counts["Global"].values()) // 2,
        attention_multiply_adds=attention // 2,
        weights_bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def _products(counts: Mapping[Any, int]) -> int:
    return sum(n for op, n in counts.items() if any(part in str(op) for part in _ATTENTION))


def _text(model: DenseModel) -> dict[str, Any]:
    """Stand-ins for what a sentence becomes."""
    prompts = model.method.prompts if isinstance(model.method, AbstractPrompted) else None
    if isinstance(prompts, Sentences):
        return {"text": torch.empty(1, prompts.num_tokens, prompts.dim, device="meta")}
    if isinstance(prompts, LearnedSentences):
        count = prompts.tokenizer.num_tokens
        return {"tokens": torch.zeros(1, count, dtype=torch.long, device="meta")}
    return {}
