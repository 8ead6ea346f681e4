"""Contexts without mixed precision, and with or without TF32."""

import pytest
import torch

from diffsight.ops import precision
from diffsight.ops.precision import float32_products, training_products, without_autocast

CPU = torch.device("cpu")


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_without_autocast_turns_mixed_precision_off() -> None:
    x = torch.rand(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert (x @ x).dtype == torch.float32
    with without_autocast(x.to("meta")):
        assert (x.to("meta") @ x.to("meta")).is_meta


def test_the_precision_of_float32_matrix_products_is_set_and_restored() -> None:
    before = settings()
    with float32_products(tf32=True):
        assert settings() == ("high", True)
        with float32_products(tf32=False):
            assert settings() == ("highest", False)
        assert settings() == ("high", True)
    with pytest.raises(ValueError, match="stop"), float32_products(tf32=False):
        raise ValueError("stop")
    assert settings() == before


def test_training_uses_tf32_if_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with training_products(CPU):
        assert settings() == ("highest", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with training_products(torch.device("cuda")):
        assert settings() == ("high", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not precision.has_tf32(torch.device("cuda"))
