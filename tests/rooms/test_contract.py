"""``Rooms`` with every label fulfils the contract of data sets."""

from pathlib import Path

from tests.contracts import DatasetContract

from diffsight.rooms import LABELS, Rooms


class TestRooms(DatasetContract):
    def build(self, folder: Path) -> Rooms:
        return Rooms(split="val", count=3, size=(24, 40), labels=tuple(LABELS))
