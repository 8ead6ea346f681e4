"""The work of one worker of a cluster, and images whose worker ends; without a cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support_cli import photo
from tests.support_export import AbstractToy, toy
from tests.support_models import tiny
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor, cluster_images
from diffsight.inference.cluster_images import (
    ImageGroup,
    ImageResult,
    ImageWork,
    MakeImageWork,
    predict_on_cluster,
)
from diffsight.inference.ray_engine import Cluster
from diffsight.inference.run_images import LoadedModel, predict_batch, predict_images
from diffsight.inference.unfinished import begin_run
from diffsight.inference.write import Job, find_images
from diffsight.types import Draws


class BatchSize(AbstractToy):
    """Add the number of images in the batch."""

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        return 0 * maps + len(maps)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    for i in range(5):
        photo(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "2.png").write_bytes(b"damaged")
    return find_images([str(tmp_path / "photos")])


@pytest.fixture
def make(tmp_path: Path) -> MakeImageWork:
    """Return the work with two models."""

    def load() -> list[LoadedModel]:
        return [
            LoadedModel(
                Predictor(tiny(seed)),
                tmp_path / "out" / name,
                {"model": {"id": name, "fingerprint": name}, "scene": None},
                None,
            )
            for seed, name in enumerate("ab")
        ]

    return MakeImageWork(load, ["a", "b"], begin_run(tmp_path / "out", {}))


def run_here(
    fatal: Callable[[Job], bool],
) -> Callable[..., Iterator[tuple[int, list[ImageResult]]]]:
    """Return a ``map_groups`` in this process; groups with a fatal image have no result."""

    def map_groups(
        groups: Sequence[ImageGroup], make: MakeImageWork, cluster: Cluster
    ) -> Iterator[tuple[int, Any]]:
        work = make()
        for index, group in enumerate(groups):
            if not any(map(fatal, group.jobs)):
                yield index, work(group)

    return map_groups


def test_results_come_image_by_image_and_finished_ones_are_not_repeated(
    jobs: list[Job], make: MakeImageWork, tmp_path: Path
) -> None:
    group = ImageGroup(jobs, {job.name: None for job in jobs})
    first = make()(group)
    assert [(r.folder.name, r.job.image.stem) for r in first] == [
        (name, f"{i}") for i in range(5) for name in "ab"
    ]
    failed = [r.job.image.stem for r in first if "error" in r.about]
    assert failed == ["2", "2"]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert len(times) == 8
    again = make()(group)
    assert [r.is_earlier for r in again] == ["error" not in r.about for r in first]
    assert [(r.folder, r.about["image"]) for r in again] == [
        (r.folder, r.about["image"]) for r in first
    ]
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_results_that_a_worker_cannot_write_are_lines(
    jobs: list[Job], make: MakeImageWork, tmp_path: Path
) -> None:
    (tmp_path / "out" / "a").write_text("a file in place of the folder of a model")
    results = make()(ImageGroup(jobs, {job.name: None for job in jobs}))
    assert len(results) == 2 * 5
    for result in results:
        if result.folder.name == "a" and result.job.image.stem != "2":
            message = f"{result.job.image}: {tmp_path / 'out' / 'a'}: cannot be created"
            assert result.about["error"].startswith(message)
    assert len(list((tmp_path / "out" / "b").glob("*.json"))) == 4


def test_files_do_not_depend_on_the_groups_in_which_images_are_predicted(tmp_path: Path) -> None:
    """Last digits depend on the batch, so the batches must be those of one process."""
    for i in range(9):
        photo(tmp_path / "photos" / f"{i}.png", *((48, 64) if i < 3 else (64, 48)))
    (tmp_path / "photos" / "5.png").write_bytes(b"damaged")
    jobs = find_images([str(tmp_path / "photos")])
    prompts = {job.name: None for job in jobs}
    predictor = Predictor(toy(BatchSize), Plan(batch_size=4))
    notes = {"model": {"id": "m", "fingerprint": "m"}, "scene": None}
    whole = LoadedModel(predictor, tmp_path / "whole", notes, None)
    lines: list[tuple[str, bool]] = []
    predict_images(
        jobs,
        [whole],
        prompts,
        lambda _, job, about: lines.append((job.name.name, "error" in about)),
    )
    parts = replace(whole, out=tmp_path / "parts")
    work = ImageWork([parts], begin_run(parts.out, {}))
    for i in (1, 7):  # a process that was killed has left these
        predict_batch(jobs[4 * (i // 4) : 4 * (i // 4) + 4], parts, prompts, lambda *_: None)
    for path in parts.out.rglob("*"):
        if path.is_file() and path.stem.split("_")[0] not in ("1", "7", ".predict"):
            path.unlink()
    groups = [ImageGroup(jobs[i : i + 4], prompts) for i in range(0, 9, 4)]
    results = [result for group in groups for result in work(group)]
    assert [(r.job.name.name, "error" in r.about) for r in results] == lines
    assert [r.job.name.name for r in results if r.is_earlier] == ["1", "7"]
    assert (parts.out / ".predict.unfinished").exists()
    work.run.finish()
    files = {p.name: p.read_bytes() for p in whole.out.iterdir()}
    assert {p.name: p.read_bytes() for p in parts.out.iterdir()} == files


def test_a_machine_with_another_model_is_refused(make: MakeImageWork) -> None:
    with pytest.raises(InputError, match="b: this machine has another model at this path"):
        MakeImageWork(make.load, ["a", "c"], make.run)()


@pytest.mark.parametrize("batch_size", [2, 8])  # 8: one group has all images
def test_an_image_that_ends_its_workers_is_a_line_and_the_others_are_predicted(
    batch_size: int, jobs: list[Job], make: MakeImageWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_images, "map_groups", run_here(lambda job: job.image.stem == "3"))
    prompts = {job.name: None for job in jobs}
    results = list(predict_on_cluster(jobs, prompts, make, Cluster(), batch_size))
    lines = {result.job.image.stem: result.about for result in results}
    assert len(results) == 2 * 5  # one of each model
    assert [name for name, about in lines.items() if "error" in about] == ["2", "3"]
    assert "3.png: its worker ended 3 times" in lines["3"]["error"]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_workers_that_all_end_are_an_error(
    batch_size: int, jobs: list[Job], make: MakeImageWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_images, "map_groups", run_here(lambda job: True))
    prompts = {job.name: None for job in jobs}
    with pytest.raises(InputError, match=r"all workers ended 3 times.*fewer --workers"):
        next(predict_on_cluster(jobs, prompts, make, Cluster(), batch_size))
