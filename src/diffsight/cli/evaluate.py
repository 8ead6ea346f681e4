"""``diffsight evaluate``: score a model and trivial baselines on labelled images."""

import json as json_text
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import progress, write_table
from diffsight.cli.engine import EngineOptions
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.datasets.base import AbstractDataset
    from diffsight.inference import Predictor
    from diffsight.inference.evaluate import Evaluation
    from diffsight.inference.ray_engine import Cluster
    from diffsight.inference.sample_predictions import SampleWork
    from diffsight.protocols import AbstractProtocol
    from diffsight.tasks import Prediction

log = logging.getLogger(__name__)
WIDE = 130  # characters per line of the table if stdout is not a terminal


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images with labels, and predictions of another program.

    Attributes:
        data: data set class and its arguments, such as Folder root=pairs unit=mm.
        recipe: recipe whose validation set is used (default: the recipe of the model's training).
        images: folder of images; their labels are in --labels.
        labels: labels of --images, in any format that `diffsight adapt` reads: a folder of files
            with the names of the images, or one file.
        unit: unit of one count in --labels, as for `diffsight adapt` (default: that of the training
            labels), or of depth in --predictions, such as mm or m/256.
        invalid: count in --labels that marks pixels without a label (default: that of the training
            labels).
        snap: take the nearest class of the model in smoothed or compressed masks in --labels.
        classes: text file with the class names of --labels, as for `diffsight adapt`; they are
            matched with the classes of the model by name (default: match the ids or colours).
        limit: number of samples to use, from the first one on (default: all).
        predictions: folder of another program's predictions to score instead of a model. File
            names are the sample ids. Depth is NPY in metres or 16-bit PNG in --unit; class ids and
            masks are images. Joints are one JSON file in COCO's format of results.
    """

    data: options.Data | None = None
    recipe: options.Recipe | None = None
    images: options.Folder | None = None
    labels: Annotated[Path | None, Flag("DIR|FILE")] = None
    unit: str | None = None
    invalid: Annotated[float | None, Flag("N")] = None
    snap: bool = False
    classes: options.File | None = None
    limit: int | None = None
    predictions: options.Folder | None = None

    def __post_init__(self) -> None:
        """Check that the options fit together."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1, got {self.limit}")
        if (self.images is None) != (self.labels is None):
            raise InputError("--images and --labels belong together: give both, or neither")
        if self.images and self.predictions:
            raise InputError("--predictions are scored on --data or --recipe: leave --images out")
        for name in ("unit", "invalid", "snap", "classes"):
            is_used = self.labels or (name == "unit" and self.predictions)
            if getattr(self, name) not in (None, False) and not is_used:
                raise InputError(f"--{name} is for --labels: leave it out")

    def read(self, model: str | None, trusted: Sequence[str]) -> "AbstractDataset":
        """Return the data set of ``--data``, of ``--recipe``, or of the recipe of the model.

        Raises:
            InputError: if there is none, or it cannot be used.
        """
        from diffsight import hub
        from diffsight.cli.recipe import data_of, data_of_recipe

        if self.data:
            return data_of(self.data, trusted=trusted)
        if self.recipe is None and model is None:
            raise InputError("the labels of --predictions are missing: give --data or --recipe")
        recipe = self.recipe or _recipe_of(hub.resolve(str(model)).path)
        return data_of_recipe(recipe, "val", trusted=trusted)


@dataclass(frozen=True)
class _Rules:
    """Options for scoring a model.

    Attributes:
        protocol: name of the protocol; None for the metric of the task.
        oracle_scene: whether the model gets the scene type of each sample.
        results: file for predicted joints.
        uncertainty: whether the uncertainty is scored.
    """

    protocol: str | None
    oracle_scene: bool
    results: Path | None
    uncertainty: bool


@command("evaluate", exclusive=("data", "recipe", "images"))
def main(
    *,
    model: options.Model | None = None,
    protocol: Annotated[str | None, Flag("ID")] = None,
    oracle_scene: bool = False,
    json: bool = False,
    out: options.File | None = None,
    results: options.File | None = None,
    uncertainty: bool = False,
    record: bool = False,
    data: DataOptions,
    run: options.RunOptions,
    plan: partial[Plan],
    engine: EngineOptions,
) -> int:
    """Score a model and trivial baselines on labelled images.

    The baselines do not look at the images. For depth they are the median and the mean map of the
    training labels. With --predictions, files of another program are scored instead of a model.

    Args:
        protocol: evaluation protocol, such as nyu-eigen-v1; `diffsight show protocols` lists all
            (default: the metric of the model's task over all labelled pixels).
        oracle_scene: give the model the true scene type of each sample (depth protocols only).
        out: also write the report to this JSON file.
        results: also write the predicted joints to this JSON file, in COCO's format of results.
        uncertainty: also score the predicted uncertainty: area under the sparsification error
            (AUSE), expected calibration error (ECE), and the fraction of errors in the 10 % most
            uncertain pixels.
        record: store the result in the saved model and its model card.
        data: labelled images.
        run: backbone, device, dtype and image size of the model.
        plan: processing of an image; it is printed with every result.
        engine: processes that run the model.

    Example:
        diffsight evaluate --model runs/rooms --recipe rooms/vpd_depth
    """
    from diffsight import hub, protocols
    from diffsight.atomic import replacing

    if (model is None) == (data.predictions is None):
        raise InputError("give --model, or --predictions DIR of another program, not both")
    if oracle_scene and not protocol:
        raise InputError("--oracle-scene needs a protocol: give --protocol")
    # check everything that does not need the model before it is loaded
    cluster = engine.cluster(run.device)
    if protocol:
        protocols.get(protocol)
    for path in filter(None, (out, results)):
        _require_file(path)
    if record and model is not None:
        _require_recordable(model)
    if model is None:
        if record or oracle_scene or results or uncertainty or cluster:
            raise InputError(
                "--record, --results, --uncertainty, --oracle-scene and --engine ray are for a "
                "model: leave them out"
            )
        about, result = _score_predictions(protocol, data, run, plan)
    else:
        rules = _Rules(protocol, oracle_scene, results, uncertainty)
        about, result = _score_model(model, rules, data, run, plan, cluster)
    text = json_text.dumps(about | result.as_dict(), indent=1) + "\n"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    if json:
        sys.stdout.write(text)
    else:
        show(result)
    if record and model is not None:  # after the report, which must not be lost if this fails
        hub.record(model, result.as_dict())
    return 0


def _require_file(path: Path) -> None:
    """Refuse a report that cannot be written.

    Raises:
        InputError: if its folder cannot be written, or it is a folder itself.
    """
    options.require_writable(path.parent)
    if path.is_dir():
        raise InputError(f"{path}: is a folder: give the name of a file, such as report.json")


def _require_defaults(run: options.RunOptions, plan: partial[Plan]) -> None:
    """Refuse the options for running a model, which stored predictions do not use.

    Raises:
        InputError: if one of them is not the default.
    """
    defaults = {
        one.name: one.default for kind in (Plan, options.RunOptions) for one in fields(kind)
    }
    values = {**plan.keywords, **vars(run), "trust": defaults["trust"]}  # data sets use --trust too
    given = [name for name, value in values.items() if value != defaults[name]]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"--predictions run no model: leave {flags} out")


def _require_recordable(model: str) -> None:
    """Refuse a saved model on this machine that cannot be changed.

    Raises:
        InputError: if its file or folder cannot be written.
    """
    stored = Path(model)
    if not stored.exists():
        return
    try:
        options.require_writable(stored, is_file=stored.is_file())
    except InputError:
        raise InputError(
            f"{model}: cannot be changed: leave --record out, or copy it to a writable folder"
        ) from None


def _open(
    model: str,
    rules: "_Rules",
    data: DataOptions,
    run: options.RunOptions,
    plan: partial[Plan],
    *,
    logs_notes: bool = False,
) -> "tuple[Predictor, AbstractDataset, AbstractProtocol | None]":
    """Return the predictor, the labelled samples and the protocol; log how labels were read."""
    from diffsight.inference.api import open_labelled_folder
    from diffsight.inference.evaluate import FirstSamples, resolve_protocol

    dataset = None if data.images else data.read(model, run.trust)
    predictor = run.load_predictor(model, plan)
    network = predictor.model
    if dataset is None:
        assert data.images
        assert data.labels
        dataset = open_labelled_folder(
            network,
            data.images,
            data.labels,
            unit=data.unit,
            invalid=data.invalid,
            snap=data.snap,
            classes=data.classes or (),
        )
        for line in dataset.notes if logs_notes else ():
            log.info("%s", line)
    if data.limit is not None:
        dataset = FirstSamples(dataset, data.limit)
    protocol = None
    if rules.protocol:
        protocol = resolve_protocol(rules.protocol, network, oracle_scene=rules.oracle_scene)
    return predictor, dataset, protocol


def _make_work(
    model: str, rules: "_Rules", data: DataOptions, run: options.RunOptions, plan: partial[Plan]
) -> "SampleWork":
    """Return the work of one worker of a cluster."""
    from diffsight.inference.sample_predictions import SampleWork

    predictor, dataset, _ = _open(model, rules, data, run, plan)
    return SampleWork(predictor, dataset)


def _score_model(
    model: str,
    rules: "_Rules",
    data: DataOptions,
    run: options.RunOptions,
    plan: partial[Plan],
    cluster: "Cluster | None",
) -> "tuple[dict[str, Any], Evaluation]":
    """Return the first entry of the report, and the scores of a model."""
    from diffsight.inference.api import compute_oracle_baselines
    from diffsight.inference.coco_results import to_result_rows, write_results
    from diffsight.inference.evaluate import evaluate
    from diffsight.inference.sample_predictions import ClusterPredictor, predict_samples

    predictor, dataset, protocol = _open(model, rules, data, run, plan, logs_notes=True)
    network, predict = predictor.model, predict_samples
    if cluster is not None:
        predict = ClusterPredictor(partial(_make_work, model, rules, data, run, plan), cluster)
    if rules.results and not network.task.has_regions:
        raise InputError(f"{model} predicts no joints: leave --results out")
    rows: list[dict[str, Any]] = []

    def on_prediction(sample_id: str, prediction: "Prediction") -> None:
        if rules.results:
            rows.extend(to_result_rows(sample_id, prediction))

    baselines = network.baselines or compute_oracle_baselines(dataset, network.task)
    with progress("evaluating", len(dataset)) as advance:
        result = evaluate(
            predictor,
            dataset,
            protocol,
            baselines=baselines,
            uncertainty=rules.uncertainty,
            advance=advance,
            on_prediction=on_prediction,
            predict=predict,
        )
    if rules.results:
        write_results(rules.results, rows)
    return {"model": {"id": model, "fingerprint": network.info["fingerprint"]}}, result


def _score_predictions(
    protocol: str | None, data: DataOptions, run: options.RunOptions, plan: partial[Plan]
) -> "tuple[dict[str, Any], Evaluation]":
    """Return the first entry of the report, and the scores of stored predictions."""
    from diffsight import protocols
    from diffsight.inference.api import compute_oracle_baselines
    from diffsight.inference.evaluate import FirstSamples, evaluate_stored
    from diffsight.inference.stored import open_stored

    assert data.predictions
    _require_defaults(run, plan)
    if protocol is None:
        raise InputError("--predictions needs a protocol: give --protocol ID")
    rules = protocols.get(protocol)
    dataset = data.read(None, run.trust)
    if data.limit is not None:
        dataset = FirstSamples(dataset, data.limit)
    stored = open_stored(data.predictions, rules, dataset)
    baselines = compute_oracle_baselines(dataset, stored.task)
    with progress("evaluating", len(dataset)) as advance:
        result = evaluate_stored(
            stored, dataset, rules, unit=data.unit, baselines=baselines, advance=advance
        )
    if data.limit is None and (unused := stored.describe_unused()):
        log.warning("%s: %s", data.predictions, unused)
    return {"predictions": {"folder": str(data.predictions)}}, result


def _recipe_of(path: Path) -> Path:
    """Return ``recipe.yaml`` in the folder of a model or in its parent, where ``fit`` writes it."""
    for folder in (path, path.resolve().parent):
        if (folder / "recipe.yaml").is_file():
            return folder / "recipe.yaml"
    raise InputError(
        f"{path}: no recipe.yaml in or above it names a validation set: give --data, --recipe, "
        "or --images and --labels"
    )


def show(result: "Evaluation") -> None:
    """Print the table of scores, with protocol, plan and data below, to stdout."""
    from rich.table import Table

    head, *rows = result.rows()
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    write_table(table, *result.notes(), width=WIDE)
