"""The training log as a CSV file that a resumed run continues."""

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
    """One row per number: ``step,name,value``.

    Lightning's own would delete the file of the interrupted run.

    Args:
        path: the file.
        first_step: rows of later steps are dropped, because they will be written again.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        super().__init__()
        self.path = path
        self._keep_until(first_step)

    @property
    def name(self) -> str:
        """Of the log."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the numbers."""
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
        rows = [["step", "name", "value"]]
        if first_step and self.path.exists():
            with reading(self.path, "damaged ({reason}): delete it, or the broken line"):
                kept = parse_csv(read_text(self.path))
                rows += [list(row.values()) for row in kept if int(row["step"]) < first_step]
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
