"""Log the values of a training to a CSV file, which a resumed run continues."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffsight.atomic import replacing
from diffsight.formats.text import parse_csv, read_text, reading


class CsvLog(Logger):
    """Writes one row per value: ``step,name,value``.

    Lightning's own CSV logger deletes the file of the interrupted run.

    Args:
        path: path of the file.
        first_step: first step of this run; existing rows from it on are deleted, and so are the
            scores of a validation just before it, because they will be written again.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        super().__init__()
        self.path = path
        self._keep_until(first_step)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: there is a single version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the values of a step, except Lightning's epoch."""
        with self.path.open("a", newline="") as file:
            rows = (
                (step, name, f"{value:.8g}") for name, value in metrics.items() if name != "epoch"
            )
            csv.writer(file).writerows(rows)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the recipe is in a file of its own."""

    @rank_zero_only
    def _keep_until(self, first_step: int) -> None:
        """Write the header and the rows before the first validation or step of this run.

        A validation after step n is logged at step n - 1, as the loss of its last batch is. If
        ``first_step`` is 0, no row is kept.
        """

        def is_kept(row: Mapping[str, str]) -> bool:
            end = first_step - 1 if row["name"].startswith("val/") else first_step
            return int(row["step"]) < end

        rows = [["step", "name", "value"]]
        if first_step and self.path.exists():
            with reading(self.path, "damaged ({reason}): delete it, or the broken line"):
                kept = parse_csv(read_text(self.path))
                rows += [list(row.values()) for row in kept if is_kept(row)]
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
