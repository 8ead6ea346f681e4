"""Pickles of plain data are read; pickles that would fill the memory are refused."""

import pickle
import tracemalloc
from pathlib import Path

import pytest

from diffsight.datasets.plain_pickle import load_plain
from diffsight.datasets.refcoco import read_refs
from diffsight.errors import InputError

REFS = [{"a": [1, -(2**70), 2.5, None, True], "b": ("é", "x" * 300, b"\xe9".decode("latin1"))}] * 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.p"
    path.write_bytes(pickle.dumps(REFS, protocol))
    assert load_plain(path) == REFS


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\x00\x00\x00\x10.",  # a memo key of 268 million
        b"\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00.",  # a byte array of 8 GB
        b"\x80\x04\x8d\x00\x00\x00\x00\x02\x00\x00\x00a.",  # a text of 8 GB
        b"\x80\x02" + b"](" * 1000 + b"." * 10,
        b"\x80\x02" + b"]" * 20_000 + b".",
    ],
)
def test_small_files_that_claim_huge_sizes_take_no_memory(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"refs\(unc\)\.p: "):
            read_refs(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_lists_that_contain_themselves_many_times_are_refused(tmp_path: Path) -> None:
    nested: list = []
    for _ in range(18):
        nested = [nested] * 10
    row = {"ref_id": 1, "ann_id": 2, "split": "train", "sentences": [{"sent": nested}]}
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([row], 2))
    with pytest.raises(InputError, match=r"nested too deeply|is not a string"):
        read_refs(path)
