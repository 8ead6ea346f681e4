"""Concatenate several data sets into one."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError


class Concatenated(AbstractDataset):
    """The samples of several data sets, one data set after another.

    The id of a sample becomes ``DATASET/ID``, with the name of its data set.

    Args:
        datasets: data sets with the same classes and different names.

    Raises:
        InputError: if there are no data sets, two have the same name, or their classes differ.
    """

    def __init__(self, *, datasets: Sequence[AbstractDataset]) -> None:
        names = [dataset.name for dataset in datasets]
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"cannot concatenate the data sets {names}: give at least one, and each only once"
            )
        self.describe_like(datasets[0])
        for dataset in datasets[1:]:
            if dataset.class_names != self.class_names:
                raise InputError(f"{dataset.name} has other classes than {names[0]}: remove it")
        sources = {dataset.prompt_source for dataset in datasets}
        self.prompt_source = " and ".join(sorted(filter(None, sources))) or None
        self.name = "+".join(names)
        self._datasets = tuple(datasets)
        self._ends = list(accumulate(map(len, datasets)))

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            IndexError: if ``index`` is negative or too large.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has samples 0 to {len(self) - 1}, not {index}")
        number = bisect_right(self._ends, index)
        dataset = self._datasets[number]
        sample = dataset[index - (self._ends[number] - len(dataset))]
        return replace(sample, id=f"{dataset.name}/{sample.id}")
