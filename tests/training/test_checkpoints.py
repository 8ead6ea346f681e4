"""Checkpoints are replaced as a whole, checked, and read without executing code."""

import os
import pickle

import pytest
import torch
from tests.support_disk import small_disk

from diffsight.errors import InputError
from diffsight.training.checkpoints import KEY, AtomicCheckpoints, link_or_copy, load, versions


def test_a_checkpoint_is_saved_and_loaded(tmp_path):
    content = {KEY: {"step": 3}, "weights": torch.arange(4.0)}
    AtomicCheckpoints().save_checkpoint(content, tmp_path / "last.ckpt")
    read = AtomicCheckpoints().load_checkpoint(tmp_path / "last.ckpt")
    assert read[KEY] == {"step": 3}
    assert torch.equal(read["weights"], content["weights"])
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["weights"].view(torch.uint8)[5].add_(1),
        lambda c: c["optimizer_states"][0]["state"][0].pop("exp_avg"),
        lambda c: c["optimizer_states"][0].update(param_groups=torch.tensor(7)),
        lambda c: c.update(weights=c["weights"].to("meta")),
        lambda c: c.update(weights=c["weights"][:1].expand(10**9)),
        lambda c: c.update(weights=c["weights"].to_sparse()),
        lambda c: c["loops"].append((1.0, None, "x")),
    ],
)
def test_a_checkpoint_with_changed_contents_is_refused(tmp_path, change):
    path, state = tmp_path / "last.ckpt", {"exp_avg": torch.ones(2, 3).mT, "step": 1}
    content = {KEY: {"step": 3}, "weights": torch.arange(4.0), "loops": [(1, True)]}
    content["optimizer_states"] = [{"state": {0: state}, "param_groups": []}]
    AtomicCheckpoints().save_checkpoint(content, path)
    assert load(path, check=True).keys() == content.keys()
    damaged = torch.load(path)
    change(damaged)
    torch.save(damaged, path)
    with pytest.raises(InputError, match=r"last.ckpt: damaged \(its contents do not match"):
        AtomicCheckpoints().load_checkpoint(path)
    assert load(path)[KEY] == {"step": 3}  # without check, the damaged entries are not read
    del damaged["diffsight_sha256"]  # checkpoints of earlier versions have no hash
    torch.save(damaged, path)
    assert load(path, check=True)[KEY] == {"step": 3}


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({KEY: 1}, path)
    refused = pytest.raises(
        OSError, match=r"last.ckpt could not be written .*the previous one is intact"
    )
    with refused as e, small_disk():
        AtomicCheckpoints().save_checkpoint({KEY: 2, "weights": torch.zeros(100_000)}, path)
    assert "\n" not in str(e.value)
    assert load(path)[KEY] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_an_interrupted_save_leaves_no_temporary_file(tmp_path, monkeypatch):
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


def test_truncated_foreign_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({KEY: torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a checkpoint of diffsight: give"):
        load(path)
    with pytest.raises(InputError, match="no such checkpoint: start without --resume"):
        load(tmp_path / "none.ckpt")


@pytest.mark.parametrize("links", [True, False])
def test_a_new_last_checkpoint_does_not_change_the_best_one(tmp_path, monkeypatch, links):
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


def test_versions_list_python_and_the_packages():
    assert {"python", "diffsight", "torch", "lightning", "numpy"} <= set(versions())
