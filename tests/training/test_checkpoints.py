"""A checkpoint is whole or the previous one; reading it runs nothing."""

import os
import pickle

import pytest
import torch
from tests.support_disk import small_disk

from diffsight.errors import InputError
from diffsight.training.checkpoints import KEY, AtomicCheckpoints, link_or_copy, load, versions


def test_round_trip(tmp_path):
    content = {KEY: {"step": 3}, "weights": torch.arange(4.0)}
    AtomicCheckpoints().save_checkpoint(content, tmp_path / "last.ckpt")
    read = AtomicCheckpoints().load_checkpoint(tmp_path / "last.ckpt")
    assert read[KEY] == {"step": 3}
    assert torch.equal(read["weights"], content["weights"])
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_full_disk_leaves_the_previous_one_whole(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({KEY: 1}, path)
    refused = pytest.raises(
        OSError, match=r"last.ckpt could not be written .*the previous one is whole"
    )
    with refused as e, small_disk():
        AtomicCheckpoints().save_checkpoint({KEY: 2, "weights": torch.zeros(100_000)}, path)
    assert "\n" not in str(e.value)
    assert load(path)[KEY] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_an_interrupted_save_leaves_nothing_of_its_own(tmp_path, monkeypatch):
    def stop(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpoints().save_checkpoint({KEY: 1}, tmp_path / "last.ckpt")
    assert not os.listdir(tmp_path)


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(Code())])
def test_other_files_are_refused_in_one_line(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"last.ckpt: not a readable checkpoint") as e:
        load(path)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "executed").exists()


def test_truncated_foreign_and_missing(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({KEY: torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a checkpoint of diffsight fit"):
        load(path)
    with pytest.raises(InputError, match="no such checkpoint: start without --resume"):
        load(tmp_path / "none.ckpt")


@pytest.mark.parametrize("links", [True, False])
def test_best_outlives_the_next_last(tmp_path, monkeypatch, links):
    if not links:

        def no_links(*_):
            raise OSError

        monkeypatch.setattr(os, "link", no_links)
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    for score in (1, 2):
        AtomicCheckpoints().save_checkpoint({KEY: score}, last)
        link_or_copy(last, best)
    AtomicCheckpoints().save_checkpoint({KEY: 3}, last)
    assert (load(best)[KEY], load(last)[KEY]) == (2, 3)


def test_versions_name_what_decides_a_result():
    assert {"python", "diffsight", "torch", "lightning", "numpy"} <= set(versions())
