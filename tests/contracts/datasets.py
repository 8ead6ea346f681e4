"""Contract tests of data sets."""

import abc
import pickle
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from diffsight.datasets.base import AbstractDataset
from tests.support import assert_same_sample, assert_sample


class DatasetContract(abc.ABC):
    """Tests of a data set: samples are valid and depend only on their index.

    Attributes:
        checked: number of samples that are read.
    """

    checked: ClassVar[int] = 4

    @abc.abstractmethod
    def build(self, folder: Path) -> AbstractDataset:
        """Return a data set of a few samples, the same at each call; files go to ``folder``."""

    def indices(self, dataset: AbstractDataset) -> range:
        """Return the indices of the samples that are checked."""
        return range(min(self.checked, len(dataset)))

    def test_samples_are_valid(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        assert len(dataset) > 0
        assert dataset.name
        for i in self.indices(dataset):
            assert_sample(dataset[i], dataset)

    def test_ids_are_unique(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        ids = [dataset[i].id for i in self.indices(dataset)]
        assert len(set(ids)) == len(ids)

    def test_reading_an_index_again_gives_the_same_sample(self, tmp_path: Path) -> None:
        first, second = self.build(tmp_path), self.build(tmp_path)
        forwards = {i: first[i] for i in self.indices(first)}
        for i in reversed(self.indices(second)):
            assert_same_sample(forwards[i], second[i])

    def test_reading_does_not_change_the_random_state(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        state = torch.random.get_rng_state()
        for i in self.indices(dataset):
            dataset[i]
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_the_data_set_can_be_pickled(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        assert_same_sample(pickle.loads(pickle.dumps(dataset))[0], dataset[0])

    def test_an_index_past_the_end_raises_index_error(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        with pytest.raises(IndexError):
            dataset[len(dataset)]
