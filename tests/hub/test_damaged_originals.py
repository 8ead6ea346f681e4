"""The authors' checkpoints that are damaged are refused in one line."""

from pathlib import Path

import pytest
import torch

from diffsight.errors import InputError
from diffsight.hub.convert import CONVERTERS, read_original
from diffsight.hub.convert.layout import KINDS


@pytest.mark.parametrize("old", [False, True])
def test_cut_off_and_flipped_checkpoints(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "x.pth"
    state = {"model": {"a": torch.ones(40, 3)}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 30):
        flipped = whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
        for content in (whole[:position], flipped):
            path.write_bytes(content)
            try:
                read_original(path)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017 - some bits are of numbers


@pytest.mark.parametrize(
    ("kind", "name", "shape", "message"),
    [
        ("vpd-depth", "encoder.class_embeddings", (27,), "a text table has two sizes"),
        ("vpd-segmentation", "class_embeddings", (), "a text table has two sizes"),
        ("evp-depth", "encoder.class_embeddings", (3,), "a prompt is tokens x width"),
        ("evp-depth", "encoder.class_embeddings", (2, 4, 8), "a prompt is tokens x width"),
        ("vpd-referring", "classifier.conv1_4.weight", (8,), "it takes 2560 channels and one"),
        ("evp-referring", "classifier.conv1_4.weight", (8, 10**6, 1, 1), "it takes 2560 channels"),
    ],
)
def test_entries_of_odd_shapes(kind: str, name: str, shape: tuple[int, ...], message: str) -> None:
    signs = [f"{s}weight" if s.endswith(".") else s for s in KINDS[kind].signs]
    state = dict.fromkeys(signs, torch.ones(1)) | {name: torch.empty(shape, device="meta")}
    with pytest.raises(InputError, match=rf"{name} has shape .*{message}"):
        CONVERTERS[kind](state)
