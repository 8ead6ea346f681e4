"""Reading state dicts from checkpoints: containers, other entries and damaged files."""

from pathlib import Path

import pytest
import torch

from diffsight.errors import InputError
from diffsight.weights import read_checkpoint


def test_containers_and_prefixes_are_removed(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(2), "b": torch.zeros(1)}
    other_entries = {"epoch": 3, "optimizer": {"lr": 1e-3}}
    for name, content in {
        "model": {"model": state},
        "state_dict": {**other_entries, "state_dict": state},
        "plain": state,
    }.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        tensors, dropped = read_checkpoint(tmp_path / f"{name}.ckpt")
        assert set(tensors) == {"a", "b"}
        assert set(dropped) == set(content) & set(other_entries)
        assert set(dropped.values()) <= {f"not part of {name}, which has the weights"}
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="no tensors in it"):
        read_checkpoint(tmp_path / "none.pth")


def test_entries_that_are_no_tensors_are_dropped_with_a_reason(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "module.step": 7, "names": ["x"]}, tmp_path / "mixed.pth")
    tensors, dropped = read_checkpoint(tmp_path / "mixed.pth")
    assert set(tensors) == {"a"}
    assert dropped == {"module.step": "not a tensor: int", "names": "not a tensor: list"}


@pytest.mark.parametrize("order", [("a", "module.a"), ("module.a", "a")])
def test_equal_duplicates_are_dropped_and_others_are_an_error(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    path = tmp_path / "twice.pth"
    torch.save({key: torch.ones(2) for key in order}, path)
    tensors, dropped = read_checkpoint(path)
    assert set(tensors) == {"a"}
    assert dropped == {"module.a": "equals a"}
    for i, other in enumerate((torch.zeros(2), torch.ones(3), torch.ones(2, dtype=torch.float64))):
        path = tmp_path / f"differ{i}.pth"
        torch.save({order[0]: torch.ones(2), order[1]: other}, path)
        with pytest.raises(InputError, match=r"differ\d.pth: a and module.a are not equal"):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", b"PK\x03\x04 cut off"])
def test_a_broken_checkpoint_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"broken.ckpt: (not a readable checkpoint|refused)"):
        read_checkpoint(tmp_path / "broken.ckpt")


@pytest.mark.parametrize("old", [False, True])
def test_truncated_and_corrupted_checkpoints_are_errors_in_one_line(
    tmp_path: Path, old: bool
) -> None:
    path = tmp_path / "x.pth"
    state = {"model": {"a": torch.ones(40, 3)}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 30):
        flipped = whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
        for content in (whole[:position], flipped):
            path.write_bytes(content)
            try:
                read_checkpoint(path)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017 - a flipped bit may only change a value
