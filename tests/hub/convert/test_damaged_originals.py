"""Damaged checkpoints of the authors are refused in one line."""

import pytest
import torch

from diffsight.errors import InputError
from diffsight.hub.convert import CONVERTERS
from diffsight.hub.convert.layout import KINDS


@pytest.mark.parametrize(
    ("kind", "name", "shape", "message"),
    [
        ("vpd-depth", "encoder.class_embeddings", (27,), "a text table is rows x width"),
        ("vpd-segmentation", "class_embeddings", (), "a text table is rows x width"),
        ("evp-depth", "encoder.class_embeddings", (3,), "a prompt is tokens x width"),
        ("evp-depth", "encoder.class_embeddings", (2, 4, 8), "a prompt is tokens x width"),
        ("vpd-referring", "classifier.conv1_4.weight", (8,), "it takes 2560 channels and one"),
        ("evp-referring", "classifier.conv1_4.weight", (8, 10**6, 1, 1), "it takes 2560 channels"),
    ],
)
def test_entries_of_a_wrong_shape_are_refused(
    kind: str, name: str, shape: tuple[int, ...], message: str
) -> None:
    keys = [f"{k}weight" if k.endswith(".") else k for k in KINDS[kind].distinctive_keys]
    state = dict.fromkeys(keys, torch.ones(1)) | {name: torch.empty(shape, device="meta")}
    with pytest.raises(InputError, match=rf"{name} has shape .*{message}"):
        CONVERTERS[kind](state)
