"""NYU Depth v2 in the few-shot benchmark: depth, and normals from a separate folder."""

from pathlib import Path

from diffsight.benchmark.measures import AngleMeasure, DepthMeasure
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask, benchmark_tasks, digest_of
from diffsight.choices import NYUTrainSplit
from diffsight.datasets.nyu_few_shot import NYUFewShotDepth, NYUNormals
from diffsight.tasks import Depth, Normals


def nyu_source(
    *,
    root: str | Path,
    normals: str | Path | None = None,
    train_list: str | Path | None = None,
    test_list: str | Path | None = None,
    train_split: NYUTrainSplit = "train",
) -> BenchmarkSource:
    """Return ``nyu_depth``, scored inside Eigen's crop, and ``nyu_normal`` if there are normals.

    Training images come from a training split; the official test set is scored.

    Args:
        root: folder of the data set, as ``NYUDepth`` reads it.
        normals: folder of normals, as ``NYUNormals`` reads it. Its name is part of the source's
            name.
        train_list: list of the training samples, as ``NYUDepth`` reads it; None uses all.
        test_list: list of the test samples; None uses all.
        train_split: ``train``, or the labelled images of ``official-train``.

    Raises:
        InputError: if files of the data set are missing, or if there are no normals for the
            training or for the test images.
    """
    train = NYUFewShotDepth(root=root, split=train_split, list_file=train_list)
    test = NYUFewShotDepth(root=root, split="test", list_file=test_list, crop=True)
    ids = ([pair.id for pair in data.pairs] for data in (train, test))
    name = f"nyu {len(train)} + {len(test)} ({digest_of(*ids)})"
    if train_split != "train":
        name = f"{name}, {train_split}"
    depth = Depth(max_depth_m=None, bins=50)
    tasks = [BenchmarkTask("nyu_depth", depth, train, test, DepthMeasure)]
    if normals is not None:
        labelled = NYUNormals(root=root, normals=normals, split=train_split, list_file=train_list)
        scored = NYUNormals(root=root, normals=normals, split="test", list_file=test_list)
        task = Normals(bins=50)
        tasks.append(BenchmarkTask("nyu_normal", task, labelled, scored, AngleMeasure))
        ids = ([pair.id for pair, _ in data.files] for data in (labelled, scored))
        counts = f"{len(labelled)} + {len(scored)} ({digest_of(*ids)})"
        name += f", normals {Path(normals).resolve().name} {counts}"
    return BenchmarkSource(name, benchmark_tasks(tasks))
