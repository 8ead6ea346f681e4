"""Names of devices and dtypes."""

import pytest
import torch

from diffsight.errors import InputError
from diffsight.ops.device import default_device, mixed_dtype, usable_device


def test_default_device_is_the_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == "cpu"
    assert usable_device(None) == "cpu"


@pytest.mark.parametrize("name", ["nowhere", "cuda:77"])
def test_unusable_device_is_refused(name):
    with pytest.raises(InputError, match=rf"device '{name}' cannot be used \(.*\): choose another"):
        usable_device(name)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_dtypes_are_accepted_as_name_and_as_torch_dtype(name):
    assert mixed_dtype(name) is mixed_dtype(getattr(torch, name)) is getattr(torch, name)


@pytest.mark.parametrize("dtype", [None, "float32", torch.float32])
def test_float32_means_no_mixed_precision(dtype):
    assert mixed_dtype(dtype) is None


@pytest.mark.parametrize("dtype", ["bf16", torch.float64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match=r"unknown dtype .*: choose float32, bfloat16, float16"):
        mixed_dtype(dtype)
