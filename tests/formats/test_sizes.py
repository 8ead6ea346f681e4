"""Impossible sizes in a network configuration are refused before the network is built."""

from typing import Any

import pytest

from diffsight.errors import InputError
from diffsight.formats.sizes import check_sizes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block_out_channels": [0]}, r"block_out_channels is \[0\]: give a list of positive"),
        ({"block_out_channels": []}, r"block_out_channels is \[\]"),
        ({"block_out_channels": 5}, "block_out_channels is 5"),
        ({"block_out_channels": [1.5]}, r"block_out_channels is \[1.5\]"),
        ({"hidden_sizes": [8, -8]}, r"hidden_sizes is \[8, -8\]"),
        ({"hidden_size": 2**40}, "hidden_size is out of range: give sizes up to 65536"),
        ({"layers_per_block": 257}, "layers_per_block is out of range: give sizes up to 256"),
        ({"depths": [1, 10**6]}, "depths is out of range: give sizes up to 256"),
        ({"patch_size": float("nan")}, "patch_size is out of range"),
        ({"attention_head_dim": [1] * 300}, "attention_head_dim is out of range"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^config\.json: {message}"):
        check_sizes("config.json", values)


def test_sizes_of_real_networks_are_accepted() -> None:
    clip = {"vocab_size": 49408, "out_indices": [-1], "hidden_act": "gelu", "dropout": 0.0}
    check_sizes("", clip | {"block_out_channels": (8, 16), "mid_block_type": None})
