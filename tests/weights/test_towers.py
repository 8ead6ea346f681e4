"""Networks of transformers: the names that they give to the entries of a checkpoint."""

import torch
from transformers import SwinBackbone, SwinConfig

from diffsight.weights import network_names


def test_a_network_names_the_entries_of_a_hub_checkpoint() -> None:
    config = SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=7)
    own = list(SwinBackbone(config).state_dict())
    assert network_names(SwinBackbone, config, own) == {name: name for name in own}
    block = "swin.encoder.layers.0.blocks.0."
    hub = [f"{block}attention.self.query.weight", f"{block}intermediate.dense.bias"]
    random_state = torch.get_rng_state()
    names = network_names(SwinBackbone, config, ["extra", *hub])
    assert torch.get_rng_state().equal(random_state)
    assert set(names) == set(hub)
    assert {*names.values()} < {*own}
    assert all(name.startswith(block) for name in names.values())
