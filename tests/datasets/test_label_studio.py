"""Masks and tasks of Label Studio."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.support_labels import COUNT, ids, write_folder, write_png

from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat


def read_masks(folders: tuple[Path, Path], **options: Any) -> LabelledFolder:
    return read_labelled_folder(*folders, LabelFormat("segmentation"), **options)


def test_the_tasks_of_label_studio_need_not_be_the_first_json_file(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    tasks = []
    for number in range(COUNT):
        mask = np.where(ids(number) == 2, 255, 0).astype(np.uint8)
        write_png(mask, folders[1] / f"task-{number}-annotation-4-by-1-tag-house-0")
        url = f"/data/local-files/?d=photos%5Cp{number}.jpg"  # a path on Windows
        tasks.append({"id": number, "data": {"image": url}})
    (folders[1] / "project.json").write_text(json.dumps(tasks))
    (folders[1] / "about.json").write_text("{}")
    assert read_masks(folders).names == ("background", "house")
