"""``sync_batchnorm`` is refused on CPUs, where PyTorch cannot share batch statistics."""

from pathlib import Path

import pytest
import torch
from tests.training.test_fit import short
from torch import distributed, nn
from torch.distributed import HashStore

from diffsight.errors import InputError
from diffsight.training.checkpoints import load


def test_several_cpu_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        short(tmp_path / "run", devices=2, sync_batchnorm=True)
    message = str(refusal.value)
    assert message.startswith("sync_batchnorm: 2 CPU processes cannot share the statistics")
    assert "choose sync_batchnorm=false, or devices=1" in message
    assert "\n" not in message


def test_in_one_process_sync_batchnorm_changes_nothing(tmp_path: Path) -> None:
    for name, is_on in (("on", True), ("off", False)):
        short(tmp_path / name, sync_batchnorm=is_on)
    on, off = (load(tmp_path / name / "last.ckpt")["state_dict"] for name in ("on", "off"))
    assert any("running_mean" in name for name in on)
    assert on.keys() == off.keys()
    assert all(value.equal(off[name]) for name, value in on.items())


def test_pytorch_cannot_share_batch_statistics_on_cpus() -> None:
    """This is the reason for the refusal. If this test fails, the refusal can be removed."""
    distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="expected input tensor to be on GPU"):
            nn.SyncBatchNorm(2).train()(torch.ones(2, 2, 2, 2))
    finally:
        distributed.destroy_process_group()
