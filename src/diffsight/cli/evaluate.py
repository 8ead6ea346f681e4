"""``diffsight evaluate``: score a model, and baselines that never see the image."""

import json as json_text
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import progress, write_table
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.datasets.base import AbstractDataset
    from diffsight.inference.evaluate import Evaluation
    from diffsight.tasks import Prediction

log = logging.getLogger(__name__)
WIDE = 130  # columns of the table where the output is no terminal


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Labelled images.

    Attributes:
        data: data set and its arguments, such as: Folder root=pairs unit=mm.
        recipe: recipe whose validation set is used (default: that of the model's training).
        images: folder of images whose labels are in --labels.
        labels: folder of labels with the names of the images, or a file, in a form that adapt
            reads.
        unit: unit of one stored count of --labels, as for adapt, or of depth in --predictions.
        invalid: stored count of --labels for "no label".
        limit: use only the first N samples (default: all).
        predictions: folder of predictions of another program to score instead of a model, named by
            the samples' ids: depth as metres (NPY) or 16-bit PNG in --unit, class ids, or masks;
            of joints a JSON file as COCO's server reads it.
    """

    data: options.Data | None = None
    recipe: options.Recipe | None = None
    images: options.Folder | None = None
    labels: Annotated[Path | None, Flag("DIR|FILE")] = None
    unit: str | None = None
    invalid: Annotated[float | None, Flag("N")] = None
    limit: int | None = None
    predictions: options.Folder | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not belong together."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1, got {self.limit}")
        if (self.images is None) != (self.labels is None):
            raise InputError("--images and --labels belong together: give both, or neither")
        if self.images and self.predictions:
            raise InputError("--predictions are scored on --data or --recipe: leave --images out")
        for name, value in (("unit", self.unit), ("invalid", self.invalid)):
            has_use = self.labels or (name == "unit" and self.predictions)
            if value is not None and not has_use:
                raise InputError(f"--{name} is for --labels: leave it out")

    def read(self, model: str | None, trusted: Sequence[str]) -> "AbstractDataset":
        """Return the data set of ``--data`` or of a recipe, by default that of the model.

        Raises:
            InputError: if it cannot be used, or no recipe of the model says what it is.
        """
        from diffsight import hub
        from diffsight.cli.recipe import data_of, data_of_recipe

        if self.data:
            return data_of(self.data, trusted=trusted)
        if self.recipe is None and model is None:
            raise InputError("predictions of which images? give --data or --recipe")
        recipe = self.recipe or _recipe_of(hub.resolve(str(model)).path)
        return data_of_recipe(recipe, "val", trusted=trusted)


@dataclass(frozen=True)
class _Rules:
    """How a model is scored, and where its joints are written."""

    protocol: str | None
    oracle_scene: bool
    results: Path | None
    uncertainty: bool


@command("evaluate", either=("data", "recipe", "images"))
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
) -> int:
    """Score a model, and baselines that never look at an image.

    For depth these are the constant median and the mean map of the training labels. With
    --predictions it scores files that another program wrote, without a model.

    Args:
        model: folder or .safetensors file of a model, folder of a training, or a hub id.
        protocol: evaluation protocol, such as nyu-eigen-v1 (default: the metric of the model's task
            over all labelled pixels).
        oracle_scene: give the model the scene type of each sample, with protocols of depth.
        json: print JSON, not a table.
        out: write the JSON report to FILE too.
        results: also write the joints of people to FILE, as COCO's server reads them.
        uncertainty: also score the uncertainty: area under the sparsification error, expected
            calibration error, and the errors in the most uncertain tenth of the pixels.
        record: store the result in the saved model and its card.
        data: labelled images.
        run: where the parts of the model are, and how it runs.
        plan: how an image is run; part of every result.

    Example:
        diffsight evaluate --model runs/rooms --recipe rooms/vpd_depth
    """
    from diffsight import hub, protocols
    from diffsight.atomic import replacing

    if (model is None) == (data.predictions is None):
        raise InputError("give --model, or --predictions DIR of another program, not both")
    if oracle_scene and not protocol:
        raise InputError("--oracle-scene is a rule of a protocol: give --protocol")
    # what can be refused without the model is refused before it is loaded
    if protocol:
        protocols.get(protocol)
    if model is None:
        if record or oracle_scene or results or uncertainty:
            raise InputError(
                "--record, --results, --uncertainty and --oracle-scene are for a model: leave them "
                "out"
            )
        about, result = _score_predictions(protocol, data, run.trust)
    else:
        rules = _Rules(protocol, oracle_scene, results, uncertainty)
        about, result = _score_model(model, rules, data, run, plan)
    text = json_text.dumps(about | result.as_dict(), indent=1) + "\n"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    if record and model is not None:
        hub.record(model, result.as_dict())
    if json:
        sys.stdout.write(text)
    else:
        show(result)
    return 0


def _score_model(
    model: str,
    rules: "_Rules",
    data: DataOptions,
    run: options.RunOptions,
    plan: partial[Plan],
) -> "tuple[dict[str, Any], Evaluation]":
    """Return the report's first entry, and the scores of a model."""
    from diffsight.inference.api import labelled_folder, oracle_baselines
    from diffsight.inference.coco_results import result_rows, write_results
    from diffsight.inference.evaluate import First, evaluate, protocol_for

    dataset = None if data.images else data.read(model, run.trust)
    predictor = run.load_predictor(model, plan)
    network = predictor.model
    if dataset is None:
        assert data.images
        assert data.labels
        dataset = labelled_folder(
            network, data.images, data.labels, unit=data.unit, invalid=data.invalid
        )
    if data.limit is not None:
        dataset = First(dataset, data.limit)
    protocol = None
    if rules.protocol:
        protocol = protocol_for(rules.protocol, network, oracle_scene=rules.oracle_scene)
    if rules.results and not network.task.has_regions:
        raise InputError(f"{model} finds no joints: leave --results out")
    rows: list[dict[str, Any]] = []

    def take(sample_id: str, prediction: "Prediction") -> None:
        if rules.results:
            rows.extend(result_rows(sample_id, prediction))

    baselines = network.baselines or oracle_baselines(dataset, network.task)
    with progress("evaluating", len(dataset)) as advance:
        result = evaluate(
            predictor,
            dataset,
            protocol,
            baselines=baselines,
            uncertainty=rules.uncertainty,
            advance=advance,
            take=take,
        )
    if rules.results:
        write_results(rules.results, rows)
    return {"model": {"id": model, "fingerprint": network.info["fingerprint"]}}, result


def _score_predictions(
    protocol: str | None, data: DataOptions, trusted: Sequence[str]
) -> "tuple[dict[str, Any], Evaluation]":
    """Return the report's first entry, and the scores of predictions in files."""
    from diffsight import protocols
    from diffsight.inference.api import oracle_baselines
    from diffsight.inference.evaluate import First, evaluate_stored
    from diffsight.inference.stored import open_stored

    assert data.predictions
    if protocol is None:
        raise InputError("--predictions are scored by a protocol: give --protocol ID")
    rules = protocols.get(protocol)
    dataset = data.read(None, trusted)
    if data.limit is not None:
        dataset = First(dataset, data.limit)
    stored = open_stored(data.predictions, rules, dataset)
    baselines = oracle_baselines(dataset, stored.task)
    with progress("evaluating", len(dataset)) as advance:
        result = evaluate_stored(
            stored, dataset, rules, unit=data.unit, baselines=baselines, advance=advance
        )
    if data.limit is None and (surplus := stored.surplus()):
        log.warning("%s: %s", data.predictions, surplus)
    return {"predictions": {"folder": str(data.predictions)}}, result


def _recipe_of(path: Path) -> Path:
    """Return ``recipe.yaml`` in the model's folder, or above it, where ``fit`` writes it."""
    for place in (path, path.resolve().parent):
        if (place / "recipe.yaml").is_file():
            return place / "recipe.yaml"
    raise InputError(
        f"{path}: no recipe.yaml in or above it says what to evaluate on: give --data, --recipe, "
        "or --images and --labels"
    )


def show(result: "Evaluation") -> None:
    """Print the table and what it depends on to stdout."""
    from rich.table import Table

    names = list(result.scores[result.name])
    table = Table("", *names)
    for name, row in result.scores.items():
        table.add_row(name, *(f"{row[measure]:.4f}" for measure in names))
    write_table(table, *_captions(result), width=WIDE)


def _captions(result: "Evaluation") -> list[str]:
    skipped = f", {result.skipped} skipped (no pixel counts)" if result.skipped else ""
    lines = [
        f"protocol  {result.protocol.describe()}",
        f"plan      {result.plan}",
        f"data      {result.data}: {result.images} {result.protocol.unit}{skipped}, "
        f"{result.seconds_per_image:.3g} s each",
    ]
    if result.classes:
        shares = (f"{name} {iou:.3f}" for name, iou in result.classes.items())
        lines.append(f"IoU       {', '.join(shares)}")
    if result.uncertainty:
        figures = (f"{name} {value:.4f}" for name, value in result.uncertainty.items())
        lines.append(f"uncertainty  {', '.join(figures)}")
    if any("oracle" in name for name in result.scores):
        why = ": the model has no baselines of its training" if result.name == "model" else ""
        lines.append(f"(oracle)  made of the evaluated labels{why}")
    return lines
