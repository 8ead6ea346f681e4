"""Contract tests of methods, tasks, heads, necks, backbones and data sets.

Subclass a contract and implement its ``build``:

    class TestDeconvHead(HeadContract):
        pyramids = (((12,), (8,)),)

        def build(self, in_channels, strides):
            return DeconvHead(in_channels=in_channels, strides=strides, output=self.output)

Use tiny models: a contract runs them a dozen times.
"""

from tests.contracts.checks import (
    assert_declared,
    assert_gradients_reach,
    assert_rows_independent,
)
from tests.contracts.datasets import DatasetContract
from tests.contracts.methods import MethodContract
from tests.contracts.parts import BackboneContract, HeadContract, NeckContract
from tests.contracts.tasks import TaskContract

__all__ = [
    "BackboneContract",
    "DatasetContract",
    "HeadContract",
    "MethodContract",
    "NeckContract",
    "TaskContract",
    "assert_declared",
    "assert_gradients_reach",
    "assert_rows_independent",
]
