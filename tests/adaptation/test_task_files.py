"""Files that are no tasks, or not whole, or stand on something else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.adaptation.test_adapt import pictures, run

from diffsight.errors import InputError
from diffsight.hub.task_file import KEY, Base, load_task, read_task


@pytest.fixture(scope="module")
def base(pipeline_folder: Path) -> Base:
    return Base.load(pipeline_folder)


def test_files_that_are_no_tasks(base, pipeline_folder, tmp_path) -> None:
    path = run(pictures(tmp_path), base, method="features", steps=1).save(tmp_path / "a.task")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole task file"):
        load_task(path, base)
    with pytest.raises(InputError, match="not a task file"):
        load_task(pipeline_folder / "unet" / "diffusion_pytorch_model.safetensors", base)
    with pytest.raises(InputError, match="no such file"):
        load_task(tmp_path / "b.task")
    path.write_bytes(whole)
    other = Base(base.source, base.folder, base.backbone, "0" * 64)
    with pytest.raises(InputError, match=rf"{base.fingerprint[:12]}\), not on .*000000000000"):
        load_task(path, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((name, f"{name} is missing") for name in ("format", "base", "report", "support", "unit")),
        ({"format": "1"}, "format is missing"),
        ({"format": 99}, "written by a newer diffsight"),
        ({"kind": "smell"}, "labels of kind smell"),
        ({"options": {}}, "'codebook'"),
        ("spread", "without their spread"),
        ("codec.edges", "missing .*'edges'"),
        ({"codec": {}}, "'kind'"),
        ("nan", "is not finite"),
    ],
)
def test_files_that_are_not_whole(change, message, base, tmp_path) -> None:
    path = run(pictures(tmp_path), base, method="concepts", steps=1).save(tmp_path / "a.task")
    about, tensors = read_task(path)
    if isinstance(change, dict):
        about |= change
    elif change in tensors:
        del tensors[change]
    elif change == "nan":
        (table,) = (value for name, value in tensors.items() if name.startswith("learned.concepts"))
        table.view(-1)[3] = torch.nan
    else:
        del about[change]
    save_file(tensors, path, {KEY: json.dumps(about)})
    with pytest.raises(InputError, match=rf"a\.task.*{message}"):
        load_task(path, base)


def test_a_head_keeps_the_text_that_it_learned_with(base, tmp_path) -> None:
    """A base whose text encoder was not there then, or is not there now, is the same base."""
    task = run(pictures(tmp_path), base, method="features", steps=1)
    task.model.method.context = torch.zeros(1, 1, base.backbone.context_dim)
    again = load_task(task.save(tmp_path / "a.task"), base)
    assert again.model.method.context.shape == (1, 1, base.backbone.context_dim)


def test_a_training_that_ends_in_no_numbers_leaves_nothing(base, tmp_path, monkeypatch) -> None:
    def broken(method, *rest, **options):
        with torch.no_grad():
            next(p for p in method.parameters() if p.requires_grad).fill_(torch.nan)

    monkeypatch.setattr("diffsight.adaptation.selection.fit", broken)
    state = tmp_path / "state"
    with pytest.raises(InputError, match="ended in values that are no numbers"):
        run(pictures(tmp_path), base, method="features", steps=1, state=state)
    assert not state.exists()


def test_labels_that_vanish_at_the_working_size(base, tmp_path) -> None:
    folder = pictures(tmp_path, "segmentation", sizes=((256, 256),))
    label = folder / "labels" / "2.png"
    sparse = np.full((256, 256), 255, np.uint8)
    sparse[1, 1] = 7
    Image.fromarray(sparse).save(label)
    with pytest.raises(InputError, match=r"1 of 6 labelled images have no labelled pixel left"):
        run(folder, base, "segmentation", method="features", steps=1, short_side=32)
