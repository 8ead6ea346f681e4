"""Safetensors files and torch checkpoints: reading, and the errors for damaged files."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from diffsight.errors import InputError
from diffsight.formats.tensors import (
    NotPlainError,
    TensorFile,
    is_dense,
    load_torch,
    read_safetensors,
)

WHOLE = save({"a": torch.ones(2, 3), "b": torch.zeros(4)}, {"names": "x"})
LINE = "damaged ({reason}): copy it"


def with_header(change: Any) -> bytes:
    """Return the bytes of ``WHOLE`` after ``change`` has edited its header."""
    length = int.from_bytes(WHOLE[:8], "little")
    entries = json.loads(WHOLE[8 : 8 + length])
    change(entries)
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + WHOLE[8 + length :]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0" * 7, b"\xff" * 100, WHOLE[:60], WHOLE[:-1], WHOLE + b"\0"),
        (2**63).to_bytes(8, "little") + WHOLE[8:],
        (len(WHOLE)).to_bytes(8, "little") + WHOLE[8:],
        b"\x10\x27" + b"\0" * 6 + b"[" * 10_000,
        with_header(lambda h: h["a"].update(dtype="F128")),
        with_header(lambda h: h["a"].update(dtype=None)),
        with_header(lambda h: h["a"].update(shape=[-1, 3])),
        with_header(lambda h: h["a"].update(shape=[2**40, 2**40])),
        with_header(lambda h: h["a"].update(shape="x")),
        with_header(lambda h: h["a"].update(data_offsets=[24, 0])),
        with_header(lambda h: h["a"].update(data_offsets=[0, 2**63])),
        with_header(lambda h: h["a"].update(data_offsets=[0.5, 24])),
        with_header(lambda h: h["a"].update(data_offsets=None)),
        with_header(lambda h: h["a"].update(data_offsets=h["b"]["data_offsets"])),
        with_header(lambda h: h.pop("a")),
        with_header(lambda h: h.update(c=3)),
        with_header(lambda h: h.update(__metadata__={"names": 3})),
        with_header(lambda h: h.update(__metadata__=[])),
    ],
)
def test_damaged_safetensors_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_safetensors(path, LINE)
    assert str(error.value).startswith(f"{path}: damaged (")
    assert str(error.value).endswith("): copy it")
    assert "\n" not in str(error.value)


def test_safetensors_files_are_read_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE)
    with TensorFile(path, LINE) as file:
        assert (sorted(file.names), file.metadata) == (["a", "b"], {"names": "x"})
        assert torch.equal(file.tensor("a"), torch.ones(2, 3))
        with pytest.raises(InputError, match=r"x\.safetensors: damaged \(.*c.*\): copy it"):
            file.tensor("c")
    save_file({"a": torch.ones(1)}, path)
    assert read_safetensors(path, LINE).keys() == {"a"}
    with pytest.raises(InputError, match="none: damaged"):
        read_safetensors(tmp_path / "none", LINE)


def write_checkpoint(path: Path, *, old: bool = False) -> bytes:
    """Write a torch checkpoint, in the old format or as a ZIP archive; return its bytes."""
    torch.save({"a": torch.ones(50, 3), "epoch": 3}, path, _use_new_zipfile_serialization=not old)
    return path.read_bytes()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_checkpoints_of_both_formats_are_read(tmp_path: Path, old: bool, mmap: bool) -> None:
    path = tmp_path / "x.pth"
    whole = write_checkpoint(path, old=old)
    checkpoint = load_torch(path, mmap=mmap)
    assert torch.equal(checkpoint["a"], torch.ones(50, 3))
    assert checkpoint["epoch"] == 3
    for length in range(0, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises((OSError, ValueError)):
            load_torch(path, mmap=mmap)


@pytest.mark.parametrize("old", [False, True])
def test_errors_of_changed_bytes_are_one_line(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "x.pth"
    whole = write_checkpoint(path, old=old)
    for position in range(0, min(len(whole), 1500), 31):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            load_torch(path)
        except (OSError, ValueError) as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = 300
            archive.addfile(info, io.BytesIO(b"-" * 300))
    with pytest.raises(ValueError, match=r"files saved in the legacy \.tar format$"):
        load_torch(path)
    for content in (b"", b"-" * 1000, b"\x80\x02.", b"[" * 5000, b"]" * 999 + b"a" * 998 + b"."):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the messages have no common text
            load_torch(path)
        assert str(error.value)
    with pytest.raises(OSError, match="No such file"):
        load_torch(tmp_path / "none.pth")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path, packed = tmp_path / "x.pth", tmp_path / "packed.pth"
    write_checkpoint(path)
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member) + b"\0" * 2**20)
    with pytest.raises(ValueError, match=r"unpacks to [\d,]+ bytes, more than the file has"):
        load_torch(packed)


class Code:
    """An object that would create a folder if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_pickled_classes_are_refused_by_name_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Code()}, "x.pth")
    with pytest.raises(NotPlainError, match=r"^it names \w+\.mkdir$"):
        load_torch("x.pth")
    assert not Path("evil").exists()


def test_meta_and_sparse_tensors_are_not_dense() -> None:
    assert is_dense(torch.ones(2))
    for value in (None, 3, torch.ones(2, device="meta"), torch.ones(2).to_sparse()):
        assert not is_dense(value)
