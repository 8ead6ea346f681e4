"""``diffsight evaluate``: score a model, and baselines that never see the image."""

import json as json_text
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.cli import options
from diffsight.cli.console import progress, write_table
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.datasets.base import AbstractDataset
    from diffsight.inference.evaluate import Evaluation

WIDE = 130  # columns of the table where the output is no terminal


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Labelled images.

    Attributes:
        data: data set and its arguments, such as: Folder root=pairs unit=mm.
        recipe: recipe whose validation set is used (default: that of the model's training).
        images: folder of images whose labels are in --labels.
        labels: folder of labels with the names of the images, in the form that the model learned.
        unit: unit of one stored count of --labels, as for adapt.
        invalid: stored count of --labels for "no label".
        limit: use only the first N samples (default: all).
    """

    data: options.Data | None = None
    recipe: options.Recipe | None = None
    images: options.Folder | None = None
    labels: options.Folder | None = None
    unit: str | None = None
    invalid: Annotated[float | None, Flag("N")] = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not belong together."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1, got {self.limit}")
        if (self.images is None) != (self.labels is None):
            raise InputError("--images and --labels belong together: give both, or neither")
        for name, value in (("unit", self.unit), ("invalid", self.invalid)):
            if value is not None and not self.labels:
                raise InputError(f"--{name} is for --labels: leave it out")

    def read(self, model: str, trusted: Sequence[str]) -> "AbstractDataset":
        """Return the data set of ``--data`` or of a recipe, by default that of the model.

        Raises:
            InputError: if it cannot be used, or no recipe of the model says what it is.
        """
        from diffsight import hub
        from diffsight.cli.recipe import data_of, data_of_recipe

        if self.data:
            return data_of(self.data, trusted=trusted)
        recipe = self.recipe or _recipe_of(hub.resolve(model).path)
        return data_of_recipe(recipe, "val", trusted=trusted)


@command("evaluate", either=("data", "recipe", "images"))
def main(
    *,
    model: options.Model,
    protocol: Annotated[str | None, Flag("ID")] = None,
    oracle_scene: bool = False,
    json: bool = False,
    out: options.File | None = None,
    record: bool = False,
    data: DataOptions,
    run: options.RunOptions,
    plan: partial[Plan],
) -> int:
    """Score a model, and baselines that never look at an image.

    For depth these are the constant median and the mean map of the training labels.

    Args:
        protocol: evaluation protocol, such as nyu-eigen-v1 (default: the metric of the model's task
            over all labelled pixels).
        oracle_scene: give the model the scene type of each sample, with protocols of depth.
        json: print JSON, not a table.
        out: write the JSON report to FILE too.
        record: store the result in the saved model and its card.
        data: labelled images.
        run: where the parts of the model are, and how it runs.
        plan: how an image is run; part of every result.
    """
    from diffsight import hub, protocols
    from diffsight.atomic import replacing
    from diffsight.inference.api import labelled_folder, oracle_baselines
    from diffsight.inference.evaluate import First, evaluate, protocol_for

    if oracle_scene and not protocol:
        raise InputError("--oracle-scene is a rule of a protocol: give --protocol")
    # what can be refused without the model is refused before it is loaded
    if protocol:
        protocols.get(protocol)
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
    rules = protocol_for(protocol, network, oracle_scene=oracle_scene) if protocol else None
    baselines = hub.read_baselines(model) or oracle_baselines(dataset, network.task)
    with progress("evaluating", len(dataset)) as advance:
        result = evaluate(predictor, dataset, rules, baselines=baselines, advance=advance)
    about = {"model": {"id": model, "fingerprint": network.info["fingerprint"]}}
    text = json_text.dumps(about | result.as_dict(), indent=1) + "\n"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    if record:
        hub.record(model, result.as_dict())
    if json:
        sys.stdout.write(text)
    else:
        show(result)
    return 0


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

    names = list(result.scores["model"])
    table = Table("", *names)
    for name, row in result.scores.items():
        table.add_row(name, *(f"{row[measure]:.4f}" for measure in names))
    write_table(table, *_captions(result), width=WIDE)


def _captions(result: "Evaluation") -> list[str]:
    skipped = f", {result.skipped} skipped (no pixel counts)" if result.skipped else ""
    lines = [
        f"protocol  {result.protocol.describe()}",
        f"plan      {result.plan.describe()}",
        f"data      {result.data}: {result.images} {result.protocol.unit}{skipped}, "
        f"{result.seconds_per_image:.3g} s each",
    ]
    if result.classes:
        shares = (f"{name} {iou:.3f}" for name, iou in result.classes.items())
        lines.append(f"IoU       {', '.join(shares)}")
    if any("oracle" in name for name in result.scores):
        lines.append(
            "(oracle)  made of the evaluated labels: the model has no baselines of its training"
        )
    return lines
