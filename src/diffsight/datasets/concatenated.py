"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError


class Concatenated(AbstractDataset):
    """The samples of several data sets, one after another; ids begin with the data set's name.

    Args:
        datasets: with the same classes.

    Raises:
        InputError: if there is none, two have one name, or their classes differ.
    """

    def __init__(self, *, datasets: Sequence[AbstractDataset]) -> None:
        names = [one.name for one in datasets]
        if not names or len(set(names)) < len(names):
            raise InputError(f"data sets {names} do not make one: give at least one, each once")
        self.class_names = datasets[0].class_names
        for one in datasets[1:]:
            if one.class_names != self.class_names:
                raise InputError(f"{one.name} has other classes than {names[0]}: leave it out")
        self.name = "+".join(names)
        self._datasets = tuple(datasets)
        self._ends = list(accumulate(map(len, datasets)))

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has samples 0 to {len(self) - 1}, not {index}")
        number = bisect_right(self._ends, index)
        dataset = self._datasets[number]
        sample = dataset[index - (self._ends[number] - len(dataset))]
        return replace(sample, id=f"{dataset.name}/{sample.id}")
